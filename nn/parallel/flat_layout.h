#pragma once

#include <cstdint>
#include <vector>

#include "lockstep/runtime/array.h"

namespace lockstep::nn {

struct BucketSizes {
  double first_mb = 1;  // small, so that the first bucket leaves early
  double other_mb = 25;
  double last_mb = 4;  // small, so that little is left when backward ends
};

// Where each tensor of a list lies in flat buckets: consecutive, each on a 64-byte boundary.
struct FlatLayout {
  struct Place {
    int bucket;
    int64_t offset;  // elements from the bucket's start
  };
  std::vector<Place> places;             // of each tensor
  std::vector<int64_t> bucket_elements;  // padding included

  // In the order given, closing a bucket when it has reached its size. A tensor larger than a
  // bucket has one of its own size.
  static FlatLayout pack(const std::vector<Shape>& shapes, DType dtype, const BucketSizes& sizes);

  // Tensor i's window on the flat arrays.
  Array window(const std::vector<Array>& buckets, int i, const Shape& shape) const;
};

}  // namespace lockstep::nn
