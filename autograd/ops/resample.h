#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "lockstep/autograd/tensor.h"
#include "lockstep/runtime/ops/convolution.h"

namespace lockstep::internal {

// A sparse matrix that is applied along one dimension, and its transpose, which is its gradient.
class Resampling {
 public:
  // Row by row: entries of a row, then end_row().
  class Rows {
   public:
    void add(int64_t column, double weight) {
      columns_.push_back(column);
      weights_.push_back(weight);
    }
    void end_row() { starts_.push_back(static_cast<int64_t>(columns_.size())); }

   private:
    friend class Resampling;
    std::vector<int64_t> starts_{0}, columns_;
    std::vector<double> weights_;
  };
  Resampling(const Rows& rows, int64_t columns, Device device);

  const kernels::SparseMatrix& matrix(bool transposed) const {
    return transposed ? transpose_ : matrix_;
  }
  int64_t rows(bool transposed) const { return transposed ? columns_ : rows_; }

 private:
  int64_t rows_, columns_;
  kernels::SparseMatrix matrix_, transpose_;
};

// Throws Error unless a matrix of so many rows is a reasonable one.
void check_rows(const char* name, int64_t rows);

// Applies the matrices along dimensions 2, 3, … 16-bit floats are rounded once, at the end.
Tensor resample(const Tensor& x, std::span<const std::shared_ptr<const Resampling>> matrices);

}  // namespace lockstep::internal
