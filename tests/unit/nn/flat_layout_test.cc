#include "lockstep/nn/parallel/flat_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace lockstep::nn {
namespace {

// Of each bucket of `count` f32 tensors of one MiB.
std::vector<double> sizes_of(int count, const BucketSizes& sizes) {
  const std::vector<Shape> shapes(static_cast<size_t>(count), Shape{512, 512});
  std::vector<int> order(shapes.size());
  std::iota(order.begin(), order.end(), 0);
  std::vector<double> result;
  for (const auto& bucket : FlatLayout::pack(shapes, order, DType::f32, sizes).buckets) {
    result.push_back(mb_of(bucket.elements * 4));
  }
  return result;
}

TEST(FlatLayout, BucketsGrowWithTheModelUnlessTheyAreGivenASize) {
  EXPECT_THAT(sizes_of(80, {}), testing::ElementsAre(1, 25, 25, 25, 4));
  EXPECT_THAT(sizes_of(80, {.other_mb = 40}), testing::ElementsAre(1, 40, 35, 4));
  const std::vector<double> large = sizes_of(6400, {});
  EXPECT_THAT(large, testing::SizeIs(66));
  EXPECT_EQ(large[1], 100);
  EXPECT_EQ(large.back(), 4);
  EXPECT_EQ(sizes_of(6400, {.other_mb = 25})[1], 25);
}

}  // namespace
}  // namespace lockstep::nn
