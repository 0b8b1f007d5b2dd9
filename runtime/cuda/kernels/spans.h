#pragma once

#include <cstdint>
#include <cstdlib>

#include "lockstep/runtime/cuda/kernels/operand.h"
#include "lockstep/runtime/cuda/strided.h"

// Some of a view's dimensions, numbered as one.
namespace lockstep::cuda {

// Where indices of these dimensions lie. Below 2^31 of them, or any number if the rank is 1.
struct Span {
  int rank = 0;
  Divisor shape[View::kMaxRank];  // innermost first
  int64_t strides[View::kMaxRank] = {};

  static Span line(int64_t stride) {
    Span span;
    span.rank = 1;
    span.strides[0] = stride;
    return span;
  }
  LOCKSTEP_HD int64_t offset(int64_t index) const {
    if (rank <= 1) return index * strides[0];
    auto rest = static_cast<uint32_t>(index);
    int64_t sum = 0;
    for (int d = 0; d < rank - 1; ++d) {
      const uint32_t outer = shape[d].divide(rest);
      sum += static_cast<int64_t>(rest - outer * shape[d].value) * strides[d];
      rest = outer;
    }
    return sum + static_cast<int64_t>(rest) * strides[rank - 1];
  }
};

// Dimensions of up to three views, in the order in which the first lies in memory; those that lie
// together in all are one.
class Dimensions {
 public:
  void add(int64_t size, int64_t first_stride, int64_t second_stride = 0,
           int64_t third_stride = 0) {
    if (size == 1) return;
    int place = rank_++;
    for (; place > 0 && std::abs(all_[place - 1].strides[0]) > std::abs(first_stride); --place) {
      all_[place] = all_[place - 1];
    }
    all_[place] = {size, {first_stride, second_stride, third_stride}};
  }
  void join() {
    int last = 0;
    for (int d = 1; d < rank_; ++d) {
      if (all_[last].continues(all_[d])) {
        all_[last].size *= all_[d].size;
      } else {
        all_[++last] = all_[d];
      }
    }
    if (rank_ > 0) rank_ = last + 1;
  }
  int rank() const { return rank_; }
  int64_t elements() const {
    int64_t product = 1;
    for (int d = 0; d < rank_; ++d) product *= all_[d].size;
    return product;
  }
  int64_t inner() const { return rank_ == 0 ? 1 : all_[0].size; }
  Span span(int view) const {
    Span span;
    span.rank = rank_;
    for (int d = 0; d < rank_; ++d) {
      // The outermost is never divided by.
      if (d + 1 < rank_) span.shape[d] = Divisor(static_cast<uint32_t>(all_[d].size));
      span.strides[d] = all_[d].strides[view];
    }
    return span;
  }

 private:
  struct Dimension {
    int64_t size;
    int64_t strides[3];

    bool continues(const Dimension& outer) const {
      for (int i = 0; i < 3; ++i) {
        if (outer.strides[i] != strides[i] * size) return false;
      }
      return true;
    }
  };

  int rank_ = 0;
  Dimension all_[View::kMaxRank];
};

// Whether runs of `inner` elements along `along` are whole packs on their boundaries, wherever
// `across` says that they begin.
inline bool packed(const void* data, const Span& along, int64_t inner, const Span& across,
                   int pack) {
  if (along.rank == 0 || along.strides[0] != 1) return false;
  if (along.rank > 1 && inner % pack != 0) return false;
  if (reinterpret_cast<uintptr_t>(data) % sizeof(Sixteen) != 0) return false;
  for (int d = 1; d < along.rank; ++d) {
    if (along.strides[d] % pack != 0) return false;
  }
  for (int d = 0; d < across.rank; ++d) {
    if (across.strides[d] % pack != 0) return false;
  }
  return true;
}

}  // namespace lockstep::cuda
