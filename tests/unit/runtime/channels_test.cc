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

struct Normalization {
  Array weight, bias, inverse, scale, shift, running_mean, running_variance;
};

// Of any dtype beside statistics of f32 or f64; what is absent counts 1 or 0.
TEST(Channels, NormOfTheStatistics) {
  auto levels = all_levels();
  Kernels& kernels = levels.back().kernels;
  constexpr double kEpsilon = 0.01, kMomentum = 0.25, kUnbiased = 1.5;
  for (DType dtype : {DType::f32, DType::f64}) {
    for (DType of_state : kFloats) {
      for (const bool given : {true, false}) {
        const Array mean = random({7}, dtype, Layout::contiguous, -2, 2, 1);
        const Array variance = random({7}, dtype, Layout::contiguous, 0.5, 2, 2);
        const auto state = [&](int seed) {
          return given ? random({7}, of_state, Layout::contiguous, 0.5, 2, seed) : Array();
        };
        const Normalization n{state(3),
                              state(4),
                              Array::empty({7}, dtype),
                              Array::empty({7}, dtype),
                              Array::empty({7}, dtype),
                              state(5),
                              state(6)};
        const auto m = doubles(mean), v = doubles(variance);
        std::vector<double> w(7, 1), b(7, 0), inverse(7), scale(7), shift(7), moved[2];
        if (given) {
          w = doubles(n.weight);
          b = doubles(n.bias);
          moved[0] = doubles(n.running_mean);
          moved[1] = doubles(n.running_variance);
        }
        const auto view = [](const Array& x) { return x ? x.view() : View(); };
        kernels.channel_norm(
            mean.view(), variance.view(),
            {view(n.weight), view(n.bias), n.inverse.view(), n.scale.view(), n.shift.view(),
             view(n.running_mean), view(n.running_variance), kEpsilon, kMomentum, kUnbiased});
        for (size_t i = 0; i < 7; ++i) {
          inverse[i] = 1 / std::sqrt(v[i] + kEpsilon);
          scale[i] = inverse[i] * w[i];
          shift[i] = b[i] - m[i] * scale[i];
          if (!given) continue;
          moved[0][i] = 0.75 * moved[0][i] + 0.25 * m[i];
          moved[1][i] = 0.75 * moved[1][i] + 0.25 * kUnbiased * v[i];
        }
        const double bound = relative_bound(dtype, 8);
        expect_near(doubles(n.inverse), inverse, bound, 0, "inverse");
        expect_near(doubles(n.scale), scale, bound, 0, "scale");
        expect_near(doubles(n.shift), shift, bound, bound, "shift");
        if (!given) continue;
        const double of_running = std::max(bound, relative_bound(of_state));
        expect_near(doubles(n.running_mean), moved[0], of_running, of_running, "running mean");
        expect_near(doubles(n.running_variance), moved[1], of_running, 0, "running variance");
      }
    }
  }
}

TEST(Channels, NormBackward) {
  auto levels = all_levels();
  for (DType dtype : {DType::f32, DType::f64}) {
    const auto channels = [&](int seed) {
      return random({7}, dtype, Layout::contiguous, -2, 2, seed);
    };
    const Array mean = channels(1), inverse = channels(2), scale = channels(3), sum = channels(4),
                products = channels(5);
    const Array slope = channels(6), shift = channels(7);
    const auto m = doubles(mean), r = doubles(inverse), a = doubles(scale), s = doubles(sum),
               p = doubles(products);
    for (DType of_weight : kFloats) {
      const Array dweight = Array::empty({7}, of_weight);
      for (const View& to : {dweight.view(), View()}) {
        levels.back().kernels.channel_norm_backward(mean.view(), inverse.view(), scale.view(),
                                                    sum.view(), products.view(), 0.125,
                                                    slope.view(), shift.view(), to);
      }
      std::vector<double> slopes(7), shifts(7), dweights(7);
      for (size_t i = 0; i < 7; ++i) {
        slopes[i] = -a[i] * r[i] * r[i] * p[i] * 0.125;
        shifts[i] = -a[i] * s[i] * 0.125 - slopes[i] * m[i];
        dweights[i] = p[i] * r[i];
      }
      const double bound = relative_bound(dtype, 8);
      expect_near(doubles(slope), slopes, bound, 0, "slope");
      expect_near(doubles(shift), shifts, bound, 8 * bound, "shift");
      expect_near(doubles(dweight), dweights, std::max(bound, relative_bound(of_weight)), 0,
                  "dweight");
    }
  }
}

TEST(Channels, Affine) {
  for_each_case([](Kernels& kernels, DType dtype, const Shape& shape, Images layout,
                   const std::string& what) {
    const Array x = filled(shape, dtype, layout, -2, 2, 1);
    const Array residual = filled(shape, dtype, Images::planes, -2, 2, 2);
    const Shape channels{shape[1]};
    const DType of_channel = statistics_of(dtype);
    const Array scale = random(channels, of_channel, Layout::contiguous, -2, 2, 3);
    const Array shift = random(channels, of_channel, Layout::contiguous, -2, 2, 4);
    const auto xs = doubles(x), added = doubles(residual), a = doubles(scale), b = doubles(shift);
    for (const bool both : {false, true}) {
      for (const bool relu : {false, true}) {
        const Array y = images(shape, dtype, layout == Images::planes ? Images::pixels : layout);
        kernels.channel_affine(x.view(), scale.view(), shift.view(),
                               both ? residual.view() : View(), relu, y.view());
        std::vector<double> expected(xs.size());
        for_each_value(shape, [&](int64_t c, int64_t i) {
          expected[i] = xs[i] * a[c] + b[c] + (both ? added[i] : 0);
          if (relu) expected[i] = std::max(0.0, expected[i]);
        });
        expect_near(doubles(y), expected, relative_bound(dtype), absolute_bound(dtype), what);
      }
    }
  });
}

enum class GateBy { none, channel, output };
constexpr GateBy kGates[] = {GateBy::none, GateBy::channel, GateBy::output};

// What a gradient is computed of, and what its gate lets through.
struct Upstream {
  Array dy, x, scale, shift, output;
  std::vector<double> g;
  GateBy by;

  Upstream(const Shape& shape, DType dtype, Images layout, GateBy by)
      : dy(filled(shape, dtype, Images::planes, -1, 1, 2)),
        x(filled(shape, dtype, layout, 1, 5, 1)),
        scale(random({shape[1]}, statistics_of(dtype), Layout::contiguous, -2, 2, 4)),
        shift(random({shape[1]}, statistics_of(dtype), Layout::contiguous, -2, 2, 5)),
        output(filled(shape, dtype, layout == Images::pixels ? Images::planes : layout, -1, 1, 6)),
        g(doubles(dy)),
        by(by) {
    const auto xs = doubles(x), a = doubles(scale), b = doubles(shift), out = doubles(output);
    for_each_value(shape, [&](int64_t c, int64_t i) {
      const double value = by == GateBy::output ? out[i] : xs[i] * a[c] + b[c];
      if (by != GateBy::none && value <= 0) g[i] = 0;
    });
  }
  ChannelGate gate() const {
    if (by == GateBy::none) return {};
    if (by == GateBy::channel) return {scale.view(), shift.view()};
    return {.output = output.view()};
  }
};

TEST(Channels, GradientSums) {
  for_each_case([](Kernels& kernels, DType dtype, const Shape& shape, Images layout,
                   const std::string& what) {
    for (GateBy by : kGates) {
      const Upstream upstream(shape, dtype, layout, by);
      const Array mean = random({shape[1]}, statistics_of(dtype), Layout::contiguous, 2, 4, 3);
      const auto xs = doubles(upstream.x), m = doubles(mean);
      std::vector<double> sums(m.size()), of_products(m.size());
      for_each_value(shape, [&](int64_t c, int64_t i) {
        sums[c] += upstream.g[i];
        of_products[c] += upstream.g[i] * (xs[i] - m[c]);
      });
      for (const bool kept : {false, true}) {
        const Array sum = Array::empty({shape[1]}, statistics_of(dtype));
        const Array products = Array::empty({shape[1]}, statistics_of(dtype));
        const Array gated = images(shape, dtype, layout);
        kernels.channel_gradient_sums(upstream.dy.view(), upstream.x.view(), mean.view(),
                                      upstream.gate(), kept ? gated.view() : View(), sum.view(),
                                      products.view());
        const double bound = absolute_bound(dtype) * std::sqrt(shape[0] * shape[2]);
        expect_near(doubles(sum), sums, 1e-5, bound, what + " sum");
        expect_near(doubles(products), of_products, 1e-5, bound, what + " products");
        if (kept) expect_near(doubles(gated), upstream.g, 0, 0, what + " gated");
      }
    }
  });
}

TEST(Channels, InputGradient) {
  for_each_case([](Kernels& kernels, DType dtype, const Shape& shape, Images layout,
                   const std::string& what) {
    for (GateBy by : {GateBy::none, GateBy::channel}) {
      const Upstream upstream(shape, dtype, layout, by);
      const auto channels = [&](unsigned seed) {
        return random({shape[1]}, statistics_of(dtype), Layout::contiguous, -2, 2, seed);
      };
      const Array scale = channels(7), slope = channels(8), shift = channels(9);
      const auto xs = doubles(upstream.x), a = doubles(scale), s = doubles(slope),
                 b = doubles(shift);
      for (const bool sloped : {false, true}) {
        const Array dx = images(shape, dtype, layout);
        kernels.channel_input_gradient(upstream.dy.view(), upstream.x.view(), scale.view(),
                                       upstream.gate(), sloped ? slope.view() : View(),
                                       sloped ? shift.view() : View(), dx.view());
        std::vector<double> expected(xs.size());
        for_each_value(shape, [&](int64_t c, int64_t i) {
          expected[i] = upstream.g[i] * a[c] + (sloped ? xs[i] * s[c] + b[c] : 0);
        });
        expect_near(doubles(dx), expected, relative_bound(dtype), absolute_bound(dtype), what);
      }
    }
  });
}

// As of an elementwise ReLU: NaN stays, and its gradient goes on.
TEST(Channels, NaNPassesTheReluBothWays) {
  for (auto& level : all_levels()) {
    for (Images layout : {Images::planes, Images::pixels}) {
      const Array x = filled({2, 3, 40}, DType::f32, layout, 1, 2, 1);
      std::vector<double> values = doubles(x);
      for (size_t i = 0; i < values.size(); i += 3) values[i] = std::nan("");
      set(x, values);
      const Array dy = filled({2, 3, 40}, DType::f32, layout, 1, 2, 2);
      const Array minus = Array::full({3}, -1, DType::f32), zero = Array::zeros({3}, DType::f32);
      const Array y = images({2, 3, 40}, DType::f32, layout),
                  g = images({2, 3, 40}, DType::f32, layout);
      level.kernels.channel_affine(x.view(), minus.view(), zero.view(), {}, true, y.view());
      level.kernels.channel_gradient_sums(dy.view(), x.view(), zero.view(), {.output = y.view()},
                                          g.view(), Array::empty({3}, DType::f32).view(),
                                          Array::empty({3}, DType::f32).view());
      const Array dx = images({2, 3, 40}, DType::f32, layout);
      level.kernels.channel_input_gradient(dy.view(), x.view(), minus.view(),
                                           {minus.view(), zero.view()}, {}, {}, dx.view());
      const auto ys = doubles(y), gs = doubles(g), dxs = doubles(dx), dys = doubles(dy);
      for (size_t i = 0; i < ys.size(); ++i) {
        EXPECT_EQ(std::isnan(ys[i]), i % 3 == 0) << level.name;
        EXPECT_TRUE(i % 3 == 0 || ys[i] == 0) << level.name;
        EXPECT_EQ(gs[i], i % 3 == 0 ? dys[i] : 0) << level.name;
        EXPECT_EQ(dxs[i], i % 3 == 0 ? -dys[i] : 0) << level.name;
      }
    }
  }
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
      levels.back().kernels.channel_gradient_sums(x.view(), x.view(), results[0].view(), {}, {},
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
