#include "lockstep/runtime/shape.h"

#include "lockstep/runtime/error.h"

namespace lockstep {

Shape::Shape(std::span<const int64_t> dims) {
  LOCKSTEP_CHECK(dims.size() <= kMaxRank, "an array of ", dims.size(), " dimensions; at most ",
                 kMaxRank);
  rank_ = static_cast<int>(dims.size());
  std::copy(dims.begin(), dims.end(), dims_);
}

Shape Shape::filled(int rank, int64_t value) {
  LOCKSTEP_CHECK(rank >= 0 && rank <= kMaxRank, "an array of ", rank, " dimensions; at most ",
                 kMaxRank);
  Shape shape;
  shape.rank_ = rank;
  std::fill(shape.dims_, shape.dims_ + rank, value);
  return shape;
}

void Shape::append(int64_t dim) { insert(rank_, dim); }

void Shape::insert(int at, int64_t dim) {
  LOCKSTEP_CHECK(rank_ < kMaxRank, "an array of more than ", kMaxRank, " dimensions");
  std::copy_backward(dims_ + at, dims_ + rank_, dims_ + rank_ + 1);
  dims_[at] = dim;
  ++rank_;
}

void Shape::erase(int at) {
  std::copy(dims_ + at + 1, dims_ + rank_, dims_ + at);
  --rank_;
}

std::string Shape::to_string() const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(dims_[i]);
  }
  return text + "]";
}

Shape contiguous_strides(const Shape& shape) {
  Shape strides = shape;
  int64_t stride = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides[i] = stride;
    stride = saturating_product(stride, shape[i]);
  }
  return strides;
}

Shape broadcast_shapes(const char* op, const Shape& a, const Shape& b) {
  Shape result = a.rank() >= b.rank() ? a : b;
  const Shape& shorter = a.rank() >= b.rank() ? b : a;
  const int lead = result.rank() - shorter.rank();
  for (int i = 0; i < shorter.rank(); ++i) {
    int64_t& dim = result[lead + i];
    if (dim == shorter[i] || shorter[i] == 1) continue;
    LOCKSTEP_CHECK(dim == 1, op, ": shapes ", a, " and ", b, " do not broadcast");
    dim = shorter[i];
  }
  return result;
}

int normalize_dim(const char* op, int64_t dim, int rank) {
  const int64_t index = dim < 0 ? dim + rank : dim;
  LOCKSTEP_CHECK(index >= 0 && index < rank, op, ": dimension ", dim, " of an array of rank ",
                 rank);
  return static_cast<int>(index);
}

}  // namespace lockstep
