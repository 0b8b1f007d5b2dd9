#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "channel_images.h"
#include "lockstep/runtime/cuda/kernels/dimensions.h"

namespace lockstep {
namespace {

using test::device_kernels;
using test::host_kernels;
using test::Image;
using test::image;
using test::kImages;
using test::on_device;
using test::statistics_of;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Moments {
  Array mean, variance;
  Moments(int64_t channels, DType dtype)
      : mean(Array::zeros({channels}, statistics_of(dtype))),
        variance(Array::zeros({channels}, statistics_of(dtype))) {}
};

void check_moments(const Array& x, double scale) {
  const Moments host(x.dim(1), x.dtype());
  const Array mean = on_device(host.mean), variance = on_device(host.variance);
  device_kernels().channel_moments(on_device(x).view(), mean.view(), variance.view());
  host_kernels().channel_moments(x.view(), host.mean.view(), host.variance.view());
  const double bound = test::tolerance(statistics_of(x.dtype()), 16);
  test::expect_near(mean, host.mean, bound, scale);
  test::expect_near(variance, host.variance, bound, scale);
}

TEST(CudaChannels, Moments) {
  test::for_all_images([](const Shape& shape, DType dtype, Image kind) {
    check_moments(image(test::values(shape, dtype, -2, 3), kind), 1);
  });
}

// Deviations of a thousandth of the mean keep their digits.
TEST(CudaChannels, MomentsFarFromZero) {
  for (Image kind : kImages) {
    const Array x = image(test::values({3, 16, 777}, DType::f32, 1000, 1001), kind);
    const Moments host(16, DType::f32);
    const Array mean = on_device(host.mean), variance = on_device(host.variance);
    device_kernels().channel_moments(on_device(x).view(), mean.view(), variance.view());
    host_kernels().channel_moments(x.view(), host.mean.view(), host.variance.view());
    test::expect_near(mean, host.mean, 0x1p-23, 1000);
    test::expect_near(variance, host.variance, 1e-4, 1e-2);
  }
}

struct Pool {
  Shape x;
  WindowOptions options;
  bool past_the_end = false;  // one more window than fits
};

const Pool kPools[] = {
    {{2, 3, 11}, {.spatial = 1, .kernel = {3}, .stride = {2}, .padding = {1}}},
    {{2, 16, 9, 10}, {.kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1}}},
    {{1, 5, 7, 8}, {.kernel = {2, 3}, .stride = {1, 2}, .dilation = {2, 1}}, true},
    {{1, 8, 5, 6, 7},
     {.spatial = 3, .kernel = {2, 3, 2}, .stride = {2, 1, 2}, .padding = {1, 1, 0}}},
    // Windows of padding alone.
    {{1, 8, 3, 3}, {.kernel = {1, 1}, .stride = {2, 2}, .padding = {2, 2}}},
    {{0, 3, 4, 4}, {.kernel = {2, 2}, .stride = {2, 2}}},
};

Shape pooled(const Pool& pool) {
  Shape y = pool.x;
  for (int i = 0; i < pool.options.spatial; ++i) {
    const WindowOptions& o = pool.options;
    const int64_t room = pool.x[2 + i] + 2 * o.padding[i] - o.dilation[i] * (o.kernel[i] - 1) - 1;
    y[2 + i] = room / o.stride[i] + 1 + (pool.past_the_end ? 1 : 0);
  }
  return y;
}

void check_max_pool(const Array& x, const Pool& pool, Image kind) {
  const Array y = image(Array::zeros(pooled(pool), x.dtype()), kind);
  const Array index = image(Array::full(pooled(pool), -1, DType::i64), kind);
  const Array on_y = on_device(y), on_index = on_device(index);
  device_kernels().max_pool(on_device(x).view(), pool.options, on_y.view(), on_index.view());
  host_kernels().max_pool(x.view(), pool.options, y.view(), index.view());
  test::expect_same(on_y, y);
  test::expect_same(on_index, index);

  const Array dy = image(test::values(pooled(pool), x.dtype(), 0.5, 1), kind);
  const Array dx = image(Array::full(x.shape(), -1, x.dtype()), kind), on_dx = on_device(dx);
  device_kernels().max_pool_backward(on_device(dy).view(), on_index.view(), pool.options,
                                     on_dx.view());
  host_kernels().max_pool_backward(dy.view(), index.view(), pool.options, dx.view());
  test::expect_near(on_dx, dx, test::tolerance(x.dtype(), 16));
}

TEST(CudaChannels, MaxPool) {
  for (const Pool& pool : kPools) {
    for (DType dtype : test::kFloats) {
      for (Image kind : kImages) {
        // Many equal values: the first of them is chosen.
        check_max_pool(image(test::whole(pool.x, dtype), kind), pool, kind);
      }
    }
  }
}

// How one image that is too large for a launch is cut: the windows of a part begin later, with less
// padding before them.
TEST(CudaChannels, MaxPoolOfAPartOfTheWindows) {
  for (Image kind : {Image::channels_first, Image::channels_last}) {
    const Pool& pool = kPools[1];
    const Array x = image(test::whole(pool.x, DType::f32), kind);
    const Array y = image(Array::zeros(pooled(pool), DType::f32), kind);
    const Array index = image(Array::full(pooled(pool), -1, DType::i64), kind);
    const Array on_x = on_device(x), on_y = on_device(y), on_index = on_device(index);
    for (int64_t begin : {0, 2}) {
      WindowOptions part = pool.options;
      part.padding[0] -= begin * part.stride[0];
      const int64_t count = begin == 0 ? 2 : y.dim(2) - 2;
      device_kernels().max_pool(on_x.view(), part, on_y.narrow(2, begin, count).view(),
                                on_index.narrow(2, begin, count).view());
    }
    host_kernels().max_pool(x.view(), pool.options, y.view(), index.view());
    test::expect_same(on_y, y);
    test::expect_same(on_index, index);
  }
}

// Of a batch of one: along what is longest, and the numbers of the channels go along.
TEST(CudaChannels, OneLargeImageIsCut) {
  constexpr int64_t kLong = int64_t{1} << 31;
  std::vector<char> memory(1);
  for (const auto& [channels, inner] :
       {std::pair{int64_t{3}, kLong}, std::pair{kLong, int64_t{3}}}) {
    View image{.data = memory.data(), .dtype = DType::u8, .rank = 3};
    const int64_t shape[] = {1, channels, inner};
    std::copy_n(shape, 3, image.shape);
    View channel = image;
    channel.strides[1] = 1;
    const View views[] = {image, channel};
    int64_t elements = 0, of_channels = 0;
    cuda::for_parts(views, [&](const View(&part)[2]) {
      EXPECT_LT(part[0].elements(), cuda::kMostElements);
      EXPECT_EQ(part[0].data, memory.data());
      const int64_t first = part[1].as<char>() - memory.data();
      EXPECT_EQ(first, channels == kLong ? of_channels : 0);
      elements += part[0].elements();
      of_channels += part[1].shape[1];
    });
    EXPECT_EQ(elements, 3 * kLong);
  }
}

TEST(CudaChannels, MaxPoolOfNaNAndInfinity) {
  std::vector<double> values = test::whole({2, 16, 9, 10}, DType::f64).to_vector<double>();
  const std::array<double, 3> special{kNaN, kInfinity, -kInfinity};
  for (size_t i = 0; i < values.size(); i += 5) values[i] = special[i % 3];
  for (size_t i = 0; i < 90; ++i) values[i] = -kInfinity;
  const Array doubles = Array::from(values, {2, 16, 9, 10});
  for (DType dtype : test::kFloats) {
    const Array x = Array::zeros(doubles.shape(), dtype);
    host_kernels().copy(doubles.view(), x.view());
    for (Image kind : kImages) check_max_pool(image(x, kind), kPools[1], kind);
  }
}

}  // namespace
}  // namespace lockstep
