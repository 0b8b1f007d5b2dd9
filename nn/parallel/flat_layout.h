#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "lockstep/runtime/array.h"

namespace lockstep::nn {

struct BucketSizes {
  double first_mb = 1;  // small, so that the first bucket leaves early
  double other_mb = 0;  // 0: 25, or a 64th of all where that is more
  double last_mb = 4;   // small, so that little is left when backward ends

  // Larger messages use a network better, and one of 64 hardly delays the end of a pass.
  double other_of(double total_mb) const {
    return other_mb > 0 ? other_mb : std::max(25.0, total_mb / 64);
  }
};

inline double mb_of(int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

// Where each tensor of a list lies in one flat array, each on a 64-byte boundary, and how that
// array is cut into buckets: ranges that begin and end with a tensor. So other bucket sizes move no
// tensor.
struct FlatLayout {
  struct Bucket {
    int64_t offset = 0;  // elements
    int64_t elements = 0;
    std::vector<int> members;  // in the order of memory
  };
  std::vector<int64_t> offsets;  // of each tensor, in elements
  std::vector<int> bucket_of;    // each tensor
  std::vector<Bucket> buckets;
  int64_t elements = 0;  // padding included

  // Tensor order[0] lies first. A bucket is closed when it has reached its size; a tensor larger
  // than a bucket has one of its own.
  static FlatLayout pack(const std::vector<Shape>& shapes, const std::vector<int>& order,
                         DType dtype, const BucketSizes& sizes);

  // Tensor i's window on the flat array.
  Array window(const Array& flat, int i, const Shape& shape) const;
  Array bucket(const Array& flat, int index) const;
};

}  // namespace lockstep::nn
