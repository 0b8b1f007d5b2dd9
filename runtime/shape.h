#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <span>
#include <string>

namespace lockstep {

inline constexpr int kMaxRank = 8;

// The product, or the largest number where it does not fit: no array is that large.
inline int64_t saturating_product(int64_t a, int64_t b) {
  int64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? std::numeric_limits<int64_t>::max() : product;
}

// A short list of dimensions (or strides), held inline. At most kMaxRank entries.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const int64_t> dims);
  // `rank` entries, each `value`.
  static Shape filled(int rank, int64_t value);

  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[i]; }
  int64_t& operator[](int i) { return dims_[i]; }
  const int64_t* data() const { return dims_; }
  const int64_t* begin() const { return dims_; }
  const int64_t* end() const { return dims_ + rank_; }
  int64_t back() const { return dims_[rank_ - 1]; }

  int64_t elements() const {
    int64_t product = 1;
    for (int64_t dim : *this) product = saturating_product(product, dim);
    return product;
  }
  void append(int64_t dim);
  void insert(int at, int64_t dim);
  void erase(int at);

  bool operator==(const Shape& other) const {
    return rank_ == other.rank_ && std::equal(begin(), end(), other.begin());
  }
  // "[2, 3]"
  std::string to_string() const;

 private:
  int64_t dims_[kMaxRank] = {};
  int rank_ = 0;
};

// Row-major strides, in elements.
Shape contiguous_strides(const Shape& shape);

// NumPy's broadcasting rule. Throws Error naming both shapes and `op`.
Shape broadcast_shapes(const char* op, const Shape& a, const Shape& b);

// `dim` in [-rank, rank) as an index in [0, rank). Throws Error naming `op`.
int normalize_dim(const char* op, int64_t dim, int rank);

}  // namespace lockstep
