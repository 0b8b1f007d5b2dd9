#include <gtest/gtest.h>

#include "kernel_testing.h"

namespace lockstep::testing {
namespace {

DType statistics_of(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }
double absolute_bound(DType dtype) { return dtype == DType::f64 ? 1e-12 : 2e-5; }

// How [batch, channels, inner] lies in memory.
enum class Images { planes, pixels, wide_pixels, wide_planes, inner_first };
constexpr Images kImages[] = {Images::planes, Images::pixels, Images::wide_pixels,
                              Images::wide_planes, Images::inner_first};

Array images(const Shape& shape, DType dtype, Images layout) {
  const int64_t batch = shape[0], channels = shape[1], inner = shape[2];
  switch (layout) {
    case Images::planes: return Array::empty(shape, dtype);
    case Images::pixels: return Array::empty({batch, inner, channels}, dtype).transpose(1, 2);
    case Images::wide_pixels:
      return Array::empty({batch, inner, channels + 3}, dtype)
          .narrow(2, 1, channels)
          .transpose(1, 2);
    case Images::wide_planes:
      return Array::empty({batch, channels + 2, inner}, dtype).narrow(1, 1, channels);
    case Images::inner_first: return Array::empty({inner, channels, batch}, dtype).transpose(0, 2);
  }
  return {};
}

Array filled(const Shape& shape, DType dtype, Images layout, double low, double high,
             unsigned seed) {
  const Array array = images(shape, dtype, layout);
  set(array, doubles(random(shape, dtype, Layout::contiguous, low, high, seed)));
  return array;
}

const Shape kShapes[] = {{3, 5, 7}, {2, 3, 5000}, {70, 33, 1}, {1, 1, 40},
                         {9, 1, 3}, {1, 600, 3},  {5, 17, 16}};

// Calls f(kernels, dtype, shape, layout, what).
template <class F>
void for_each_case(const F& f) {
  for (auto& level : all_levels()) {
    for (DType dtype : kFloats) {
      for (const Shape& shape : kShapes) {
        for (Images layout : kImages) {
          f(level.kernels, dtype, shape, layout,
            level.name + " " + std::string(name_of(dtype)) + " " + shape.to_string() + " layout " +
                std::to_string(static_cast<int>(layout)));
        }
      }
    }
  }
}

// Calls f(channel, value's place) for every value of a row-major [batch, channels, inner].
template <class F>
void for_each_value(const Shape& shape, const F& f) {
  for (int64_t i = 0; i < shape.elements(); ++i) f(i / shape[2] % shape[1], i);
}

struct Moments {
  std::vector<double> mean, variance;
};

Moments moments_of(const Shape& shape, const std::vector<double>& x) {
  const double count = static_cast<double>(shape[0] * shape[2]);
  Moments m{std::vector<double>(shape[1]), std::vector<double>(shape[1])};
  for_each_value(shape, [&](int64_t c, int64_t i) { m.mean[c] += x[i] / count; });
  for_each_value(shape, [&](int64_t c, int64_t i) {
    m.variance[c] += (x[i] - m.mean[c]) * (x[i] - m.mean[c]) / count;
  });
  return m;
}

TEST(Channels, Moments) {
  for_each_case([](Kernels& kernels, DType dtype, const Shape& shape, Images layout,
                   const std::string& what) {
    const Array x = filled(shape, dtype, layout, 1, 5, 1);
    const Array mean = Array::empty({shape[1]}, statistics_of(dtype));
    const Array variance = Array::empty({shape[1]}, statistics_of(dtype));
    kernels.channel_moments(x.view(), mean.view(), variance.view());
    const Moments expected = moments_of(shape, doubles(x));
    const double bound = relative_bound(statistics_of(dtype), 32);
    expect_near(doubles(mean), expected.mean, bound, 0, what + " mean");
    expect_near(doubles(variance), expected.variance, bound, 4 * bound, what + " variance");
  });
}

// Sums of squares would lose the variance altogether: 1e4^2 has no digits left for 1e-2.
TEST(Channels, VarianceFarFromZero) {
  for (auto& level : all_levels()) {
    for (Images layout : {Images::planes, Images::pixels}) {
      const Array x = filled({4, 3, 3000}, DType::f32, layout, 9999.5, 10000.5, 1);
      const Array mean = Array::empty({3}, DType::f32), variance = Array::empty({3}, DType::f32);
      level.kernels.channel_moments(x.view(), mean.view(), variance.view());
      const Moments expected = moments_of(x.shape(), doubles(x));
      expect_near(doubles(mean), expected.mean, 1e-6, 0, level.name);
      expect_near(doubles(variance), expected.variance, 1e-3, 0, level.name);
    }
  }
}

TEST(Channels, Affine) {
  for_each_case([](Kernels& kernels, DType dtype, const Shape& shape, Images layout,
                   const std::string& what) {
    const Array x = filled(shape, dtype, layout, -2, 2, 1);
    const Array dy = filled(shape, dtype, Images::planes, -2, 2, 2);
    const Shape channels{shape[1]};
    const DType of_channel = statistics_of(dtype);
    const Array scale = random(channels, of_channel, Layout::contiguous, -2, 2, 3);
    const Array shift = random(channels, of_channel, Layout::contiguous, -2, 2, 4);
    const Array dy_scale = random(channels, of_channel, Layout::contiguous, -2, 2, 5);
    const auto xs = doubles(x), dys = doubles(dy), a = doubles(scale), b = doubles(shift),
               d = doubles(dy_scale);
    for (const bool both : {false, true}) {
      const Array y = images(shape, dtype, layout == Images::planes ? Images::pixels : layout);
      kernels.channel_affine(x.view(), scale.view(), shift.view(), both ? dy.view() : View(),
                             both ? dy_scale.view() : View(), y.view());
      std::vector<double> expected(xs.size());
      for_each_value(shape, [&](int64_t c, int64_t i) {
        expected[i] = xs[i] * a[c] + b[c] + (both ? dys[i] * d[c] : 0);
      });
      expect_near(doubles(y), expected, relative_bound(dtype), absolute_bound(dtype), what);
    }
  });
}

TEST(Channels, GradientSums) {
  for_each_case([](Kernels& kernels, DType dtype, const Shape& shape, Images layout,
                   const std::string& what) {
    const Array x = filled(shape, dtype, layout, 1, 5, 1);
    const Array dy = filled(shape, dtype, Images::planes, -1, 1, 2);
    const Array mean = random({shape[1]}, statistics_of(dtype), Layout::contiguous, 2, 4, 3);
    const Array sum = Array::empty({shape[1]}, statistics_of(dtype));
    const Array products = Array::empty({shape[1]}, statistics_of(dtype));
    kernels.channel_gradient_sums(dy.view(), x.view(), mean.view(), sum.view(), products.view());
    const auto xs = doubles(x), dys = doubles(dy), m = doubles(mean);
    std::vector<double> sums(m.size()), of_products(m.size());
    for_each_value(shape, [&](int64_t c, int64_t i) {
      sums[c] += dys[i];
      of_products[c] += dys[i] * (xs[i] - m[c]);
    });
    const double bound = absolute_bound(dtype) * std::sqrt(shape[0] * shape[2]);
    expect_near(doubles(sum), sums, 1e-5, bound, what + " sum");
    expect_near(doubles(products), of_products, 1e-5, bound, what + " products");
  });
}

TEST(Channels, BitsDoNotDependOnTheThreadCount) {
  auto levels = all_levels();
  for (Images layout : {Images::planes, Images::pixels}) {
    const Array x = filled({8, 30, 900}, DType::f32, layout, 1, 5, 1);
    std::vector<double> first;
    for (int threads : {1, 2, 3}) {
      const Threads scope(threads);
      const Array results[] = {Array::empty({30}, DType::f32), Array::empty({30}, DType::f32),
                               Array::empty({30}, DType::f32), Array::empty({30}, DType::f32)};
      levels.back().kernels.channel_moments(x.view(), results[0].view(), results[1].view());
      levels.back().kernels.channel_gradient_sums(x.view(), x.view(), results[0].view(),
                                                  results[2].view(), results[3].view());
      std::vector<double> all;
      for (const Array& array : results) {
        for (double value : doubles(array)) all.push_back(value);
      }
      if (threads == 1) first = all;
      EXPECT_EQ(all, first);
    }
  }
}

}  // namespace
}  // namespace lockstep::testing
