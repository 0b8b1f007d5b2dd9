#include <gtest/gtest.h>

#include "kernel_testing.h"

namespace lockstep::testing {
namespace {

constexpr int64_t kRows = 150;
const int64_t kWidths[] = {1, 5, 37, 384, 1100};

DType statistics_of(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }
double absolute_bound(DType dtype) { return dtype == DType::f64 ? 1e-13 : 4e-6; }

// Calls f(kernels, dtype, width, what) for every level, dtype and width.
template <class F>
void for_each_case(const F& f) {
  for (auto& level : all_levels()) {
    for (DType dtype : kFloats) {
      for (int64_t width : kWidths) {
        f(level.kernels, dtype, width,
          level.name + " " + std::string(name_of(dtype)) + " width " + std::to_string(width));
      }
    }
  }
}

double log_sum_exp(const double* x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(x[i]);
  return std::log(sum);
}

TEST(Rows, Softmax) {
  for_each_case([](Kernels& kernels, DType dtype, int64_t width, const std::string& what) {
    const Array x = random({kRows, width}, dtype);
    const Array y = Array::empty(x.shape(), dtype);
    for (bool log : {false, true}) {
      kernels.softmax(x.view(), y.view(), log);
      auto expected = doubles(x);
      for (int64_t row = 0; row < kRows; ++row) {
        const double total = log_sum_exp(&expected[row * width], width);
        for (int64_t i = row * width; i < (row + 1) * width; ++i) {
          expected[i] = log ? expected[i] - total : std::exp(expected[i] - total);
        }
      }
      expect_near(doubles(y), expected, 4 * relative_bound(dtype), absolute_bound(dtype), what);
    }
  });
}

TEST(Rows, SoftmaxBackward) {
  for_each_case([](Kernels& kernels, DType dtype, int64_t width, const std::string& what) {
    const Array y = random({kRows, width}, dtype, Layout::contiguous, -1, 0);
    const Array dy = random({kRows, width}, dtype, Layout::contiguous, -1, 1, 2);
    const auto ys = doubles(y), dys = doubles(dy);
    for (bool log : {false, true}) {
      for (double beta : {0.0, 1.0}) {
        const Array dx = random({kRows, width}, dtype, Layout::contiguous, -1, 1, 3);
        auto expected = doubles(dx);
        for (int64_t row = 0; row < kRows; ++row) {
          double sum = 0;
          for (int64_t i = row * width; i < (row + 1) * width; ++i) {
            sum += log ? dys[i] : ys[i] * dys[i];
          }
          for (int64_t i = row * width; i < (row + 1) * width; ++i) {
            const double value = log ? dys[i] - std::exp(ys[i]) * sum : ys[i] * (dys[i] - sum);
            expected[i] = value + beta * expected[i];
          }
        }
        kernels.softmax_backward(y.view(), dy.view(), dx.view(), log, beta);
        expect_near(doubles(dx), expected, 4 * relative_bound(dtype), 20 * absolute_bound(dtype),
                    what);
      }
    }
  });
}

TEST(Rows, SoftmaxOfLargeValuesDoesNotOverflow) {
  for (auto& level : all_levels()) {
    const Array x = Array::from<float>({1e30f, 1e30f, -1e30f, 1000, 1001, -INFINITY}, {2, 3});
    const Array y = Array::empty({2, 3}, DType::f32);
    level.kernels.softmax(x.view(), y.view(), false);
    const double share = 1 / (1 + std::exp(1.0));
    expect_near(doubles(y), {0.5, 0.5, 0, share, 1 - share, 0}, 1e-6, 0, level.name);
  }
}

TEST(Rows, CrossEntropy) {
  for_each_case([](Kernels& kernels, DType dtype, int64_t width, const std::string& what) {
    constexpr int64_t kIgnore = -100;
    const Array logits = random({kRows, width}, dtype);
    const DType statistics = statistics_of(dtype);
    std::vector<int64_t> classes(kRows);
    for (int64_t i = 0; i < kRows; ++i) classes[i] = i % 7 == 3 ? kIgnore : i % width;
    const Array targets = Array::from<int64_t>(classes, {kRows});
    const Array loss = Array::empty({kRows}, statistics);
    const Array sums = Array::empty({kRows}, statistics);
    kernels.cross_entropy(logits.view(), targets.view(), kIgnore, loss.view(), sums.view());
    const auto xs = doubles(logits);
    std::vector<double> expected(kRows), totals(kRows);
    for (int64_t row = 0; row < kRows; ++row) {
      totals[row] = log_sum_exp(&xs[row * width], width);
      expected[row] = classes[row] == kIgnore ? 0 : totals[row] - xs[row * width + classes[row]];
    }
    const double bound = relative_bound(statistics, 32);
    expect_near(doubles(sums), totals, bound, bound, what);
    expect_near(doubles(loss), expected, bound, 4 * bound, what);

    const Array dloss = random({kRows}, statistics, Layout::contiguous, -1, 1, 2);
    const auto scale = doubles(dloss);
    for (double beta : {0.0, 1.0}) {
      const Array dlogits = random({kRows, width}, dtype, Layout::contiguous, -1, 1, 3);
      auto gradient = doubles(dlogits);
      if (beta == 0) kernels.fill(dlogits.view(), std::nan(""));
      for (int64_t row = 0; row < kRows; ++row) {
        for (int64_t i = 0; i < width; ++i) {
          const int64_t at = row * width + i;
          double value = (std::exp(xs[at] - totals[row]) - (i == classes[row])) * scale[row];
          if (classes[row] == kIgnore) value = 0;
          gradient[at] = value + beta * gradient[at];
        }
      }
      kernels.cross_entropy_backward(logits.view(), targets.view(), kIgnore, sums.view(),
                                     dloss.view(), dlogits.view(), beta);
      expect_near(doubles(dlogits), gradient, 4 * relative_bound(dtype), absolute_bound(dtype),
                  what);
    }
  });
}

TEST(Rows, MeanLoss) {
  constexpr int64_t kIgnore = 5;
  auto levels = all_levels();
  Kernels& kernels = levels.front().kernels;
  for (DType dtype : {DType::f32, DType::f64}) {
    for (const int64_t rows : {0, 1, 7, 256, 1000, 70001}) {
      const Array loss = random({rows}, dtype), mean = Array::full({2}, 7, dtype);
      std::vector<int64_t> targets(static_cast<size_t>(rows));
      const std::vector<double> losses = doubles(loss);
      double sum = 0, count = 0;
      for (size_t i = 0; i < targets.size(); ++i) {
        targets[i] = static_cast<int64_t>(i * 7 % 9);
        if (targets[i] == kIgnore) continue;
        sum += losses[i];
        ++count;
      }
      kernels.mean_loss(loss.view(), Array::from(targets, {rows}).view(), kIgnore, mean.view());
      const double bound = relative_bound(dtype);
      if (count > 0) expect_near(doubles(mean), {sum / count, 1 / count}, bound, bound, "mean");
    }
  }
  const Array loss = random({2}, DType::f32), mean = Array::full({2}, 7, DType::f32);
  const Array ignored = Array::from<int64_t>({kIgnore, kIgnore}, {2});
  kernels.mean_loss(loss.view(), ignored.view(), kIgnore, mean.view());
  EXPECT_TRUE(std::isnan(doubles(mean)[0]));
  EXPECT_TRUE(std::isinf(doubles(mean)[1]));
}

struct Normalized {
  std::vector<double> hat, mean, inverse;  // (x - mean) / deviation; one a row
};

Normalized normalize(const std::vector<double>& x, int64_t width, double epsilon) {
  Normalized result{x, {}, {}};
  for (int64_t row = 0; row < kRows; ++row) {
    double mean = 0, square = 0;
    for (int64_t i = 0; i < width; ++i) mean += x[row * width + i] / double(width);
    for (int64_t i = 0; i < width; ++i) {
      square += std::pow(x[row * width + i] - mean, 2) / double(width);
    }
    const double inverse = 1 / std::sqrt(square + epsilon);
    for (int64_t i = 0; i < width; ++i) {
      result.hat[row * width + i] = (x[row * width + i] - mean) * inverse;
    }
    result.mean.push_back(mean);
    result.inverse.push_back(inverse);
  }
  return result;
}

TEST(Rows, LayerNorm) {
  for_each_case([](Kernels& kernels, DType dtype, int64_t width, const std::string& what) {
    const Array x = random({kRows, width}, dtype, Layout::contiguous, 1, 5);
    const Array weight = random({width}, dtype, Layout::contiguous, 0.5, 2, 2);
    const Array bias = random({width}, dtype, Layout::contiguous, -1, 1, 3);
    const Array y = Array::empty(x.shape(), dtype);
    const Array mean = Array::empty({kRows}, statistics_of(dtype));
    const Array inverse = Array::empty({kRows}, statistics_of(dtype));
    const Normalized expected = normalize(doubles(x), width, 1e-5);
    const auto w = doubles(weight), b = doubles(bias);
    for (int affine = 0; affine < 4; ++affine) {
      kernels.layer_norm(x.view(), {}, (affine & 1) != 0 ? weight.view() : View(),
                         (affine & 2) != 0 ? bias.view() : View(), 1e-5, y.view(), mean.view(),
                         inverse.view());
      auto values = expected.hat;
      for (size_t i = 0; i < values.size(); ++i) {
        if ((affine & 1) != 0) values[i] *= w[i % static_cast<size_t>(width)];
        if ((affine & 2) != 0) values[i] += b[i % static_cast<size_t>(width)];
      }
      expect_near(doubles(y), values, 4 * relative_bound(dtype), 10 * absolute_bound(dtype), what);
      const double bound = relative_bound(statistics_of(dtype), 64);
      expect_near(doubles(mean), expected.mean, bound, 0, what);
      expect_near(doubles(inverse), expected.inverse, bound, 0, what);
    }
  });
}

TEST(Rows, LayerNormBackward) {
  for_each_case([](Kernels& kernels, DType dtype, int64_t width, const std::string& what) {
    const Array x = random({kRows, width}, dtype, Layout::contiguous, 1, 5);
    const Array dy = random({kRows, width}, dtype, Layout::contiguous, -1, 1, 2);
    const Array weight = random({width}, dtype, Layout::contiguous, 0.5, 2, 3);
    const Normalized n = normalize(doubles(x), width, 1e-5);
    const Array mean = Array::empty({kRows}, statistics_of(dtype));
    const Array inverse = Array::empty({kRows}, statistics_of(dtype));
    set(mean, n.mean);
    set(inverse, n.inverse);
    const Array dx = random({kRows, width}, dtype, Layout::contiguous, -1, 1, 4);
    const Array dweight = random({width}, dtype, Layout::contiguous, -1, 1, 5);
    const Array dbias = random({width}, dtype, Layout::contiguous, -1, 1, 6);
    const auto dys = doubles(dy), w = doubles(weight);
    auto ex = doubles(dx), ew = doubles(dweight), eb = doubles(dbias);
    for (double& value : eb) value = 0;
    for (int64_t row = 0; row < kRows; ++row) {
      double mean_g = 0, mean_gh = 0;
      for (int64_t i = 0; i < width; ++i) {
        const int64_t at = row * width + i;
        mean_g += dys[at] * w[i] / double(width);
        mean_gh += dys[at] * w[i] * n.hat[at] / double(width);
        ew[i] += dys[at] * n.hat[at];
        eb[i] += dys[at];
      }
      for (int64_t i = 0; i < width; ++i) {
        const int64_t at = row * width + i;
        ex[at] += n.inverse[row] * (dys[at] * w[i] - mean_g - n.hat[at] * mean_gh);
      }
    }
    const double beta[3] = {1, 1, 0};
    kernels.fill(dbias.view(), std::nan(""));
    kernels.layer_norm_backward(dy.view(), x.view(), weight.view(), mean.view(), inverse.view(), {},
                                dx.view(), dweight.view(), dbias.view(), beta);
    // A row of one value has no variance, so 1 / deviation magnifies what the mean rounds.
    const double magnified = width == 1 ? 300 : 1;
    expect_near(doubles(dx), ex, 8 * relative_bound(dtype), 50 * absolute_bound(dtype) * magnified,
                what + " dx");
    expect_near(doubles(dweight), ew, 8 * relative_bound(dtype),
                50 * absolute_bound(dtype) * magnified, what + " dweight");
    expect_near(doubles(dbias), eb, 8 * relative_bound(dtype), 50 * absolute_bound(dtype),
                what + " dbias");
    kernels.layer_norm_backward(dy.view(), x.view(), View(), mean.view(), inverse.view(), {},
                                View(), View(), dbias.view(), beta);  // only what is wanted
    expect_near(doubles(dbias), eb, 8 * relative_bound(dtype), 50 * absolute_bound(dtype), what);
  });
}

TEST(Rows, RmsNormBothWays) {
  for_each_case([](Kernels& kernels, DType dtype, int64_t width, const std::string& what) {
    constexpr double kEpsilon = 0.1;
    const Array x = random({kRows, width}, dtype, Layout::contiguous, -2, 2);
    const Array weight = random({width}, dtype, Layout::contiguous, 0.5, 2, 2);
    const Array dy = random({kRows, width}, dtype, Layout::contiguous, -1, 1, 3);
    const auto xs = doubles(x), dys = doubles(dy);
    const Array y = Array::empty(x.shape(), dtype);
    const Array inverse = Array::empty({kRows}, statistics_of(dtype));
    for (const bool weighted : {false, true}) {
      const auto w = weighted ? doubles(weight) : std::vector<double>(width, 1.0);
      const View scale = weighted ? weight.view() : View();
      const Array dx = random({kRows, width}, dtype, Layout::contiguous, -1, 1, 4);
      const Array dweight = random({width}, dtype, Layout::contiguous, -1, 1, 5);
      std::vector<double> ey(xs.size()), ex = doubles(dx), ew = doubles(dweight), inverses;
      for (int64_t row = 0; row < kRows; ++row) {
        const int64_t at = row * width;
        double squares = 0, dot = 0;
        for (int64_t i = 0; i < width; ++i) squares += xs[at + i] * xs[at + i] / double(width);
        const double r = 1 / std::sqrt(squares + kEpsilon);
        inverses.push_back(r);
        for (int64_t i = 0; i < width; ++i) {
          ey[at + i] = xs[at + i] * r * w[i];
          dot += dys[at + i] * w[i] * xs[at + i] / double(width);
          ew[i] += dys[at + i] * xs[at + i] * r;
        }
        for (int64_t i = 0; i < width; ++i) {
          ex[at + i] += r * (dys[at + i] * w[i] - xs[at + i] * r * r * dot);
        }
      }
      kernels.rms_norm(x.view(), scale, kEpsilon, y.view(), inverse.view());
      expect_near(doubles(y), ey, 4 * relative_bound(dtype), absolute_bound(dtype), what);
      expect_near(doubles(inverse), inverses, relative_bound(statistics_of(dtype), 64), 0, what);
      const double beta[2] = {1, 1};
      kernels.rms_norm_backward(dy.view(), x.view(), scale, inverse.view(), dx.view(),
                                weighted ? dweight.view() : View(), beta);
      expect_near(doubles(dx), ex, 8 * relative_bound(dtype), 50 * absolute_bound(dtype), what);
      if (!weighted) continue;
      expect_near(doubles(dweight), ew, 8 * relative_bound(dtype), 50 * absolute_bound(dtype),
                  what);
    }
  });
}

TEST(Rows, EmbeddingAddsRepeatedIdsInOrder) {
  for (auto& level : all_levels()) {
    for (DType dtype : kFloats) {
      for (int64_t width : {1, 3, 64, 200}) {
        const Array table = random({11, width}, dtype);
        std::vector<int64_t> ids(500);
        for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int64_t>(i * i % 10);
        const Array index = Array::from<int64_t>(ids, {500});
        const Array out = Array::empty({500, width}, dtype);
        level.kernels.embedding(table.view(), index.view(), out.view());
        const auto rows = doubles(table), found = doubles(out);
        for (size_t i = 0; i < found.size(); ++i) {
          const size_t w = static_cast<size_t>(width);
          ASSERT_EQ(found[i], rows[static_cast<size_t>(ids[i / w]) * w + i % w]);
        }
        for (double beta : {0.0, 0.5}) {
          const Array dy = random({500, width}, dtype, Layout::contiguous, -1, 1, 2);
          const Array dtable = random({11, width}, dtype, Layout::contiguous, -1, 1, 3);
          auto expected = doubles(dtable);
          for (double& value : expected) value *= beta;
          const auto dys = doubles(dy);
          for (size_t i = 0; i < dys.size(); ++i) {
            const size_t w = static_cast<size_t>(width);
            expected[static_cast<size_t>(ids[i / w]) * w + i % w] += dys[i];
          }
          level.kernels.embedding_backward(dy.view(), index.view(), dtable.view(), beta);
          expect_near(doubles(dtable), expected, relative_bound(dtype, 64),
                      10 * absolute_bound(dtype), level.name);
        }
      }
    }
  }
}

TEST(Rows, ExtentFindsTheEnds) {
  auto levels = all_levels();
  const Array ids = Array::from<int64_t>({3, -7, 12, 0}, {4});
  int64_t smallest = 0, largest = 0;
  levels[0].kernels.extent(ids.view(), &smallest, &largest);
  EXPECT_EQ(smallest, -7);
  EXPECT_EQ(largest, 12);
}

}  // namespace
}  // namespace lockstep::testing
