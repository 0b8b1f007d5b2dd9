#include <gtest/gtest.h>

#include "kernel_testing.h"

namespace lockstep::testing {
namespace {

struct Sizes {
  int64_t batch, heads, queries, keys, features, values;
};

// [batch, heads, time, feature] as a model has it: a slice of [batch, time, width].
Array heads_window(int64_t batch, int64_t heads, int64_t time, int64_t features, DType dtype,
                   unsigned seed) {
  const Array whole =
      random({batch, time, 2 * heads * features}, dtype, Layout::contiguous, -1, 1, seed);
  return whole.narrow(2, heads * features, heads * features)
      .try_view({batch, time, heads, features})
      .transpose(1, 2);
}

struct Reference {
  std::vector<double> out, log_sum_exp, dq, dk, dv;
};

// Unfused, in double: probabilities as a whole matrix. `bias` [queries, keys] may be empty.
Reference reference(const Sizes& s, AttentionOptions options, const std::vector<double>& bias,
                    const std::vector<double>& q, const std::vector<double>& k,
                    const std::vector<double>& v, const std::vector<double>& dout) {
  Reference r{std::vector<double>(dout.size()),
              {},
              std::vector<double>(q.size()),
              std::vector<double>(k.size()),
              std::vector<double>(v.size())};
  for (int64_t h = 0; h < s.batch * s.heads; ++h) {
    for (int64_t i = 0; i < s.queries; ++i) {
      const double* query = &q[(h * s.queries + i) * s.features];
      const double* upstream = &dout[(h * s.queries + i) * s.values];
      const int64_t seen = options.causal ? std::min(i + 1, s.keys) : s.keys;
      std::vector<double> p(static_cast<size_t>(seen));
      double total = 0;
      for (int64_t j = 0; j < seen; ++j) {
        double score = 0;
        for (int64_t f = 0; f < s.features; ++f) {
          score += query[f] * k[(h * s.keys + j) * s.features + f];
        }
        const double added = bias.empty() ? 0 : bias[i * s.keys + j];
        total += p[j] = std::exp(score * options.scale + added);
      }
      r.log_sum_exp.push_back(std::log(total));
      double delta = 0;
      std::vector<double> dp(p.size());
      for (int64_t j = 0; j < seen; ++j) {
        p[j] /= total == 0 ? 1 : total;
        for (int64_t f = 0; f < s.values; ++f) {
          const int64_t at = (h * s.keys + j) * s.values + f;
          r.out[(h * s.queries + i) * s.values + f] += p[j] * v[at];
          r.dv[at] += p[j] * upstream[f];
          dp[j] += upstream[f] * v[at];
        }
        delta += p[j] * dp[j];
      }
      for (int64_t j = 0; j < seen; ++j) {
        const double ds = p[j] * (dp[j] - delta) * options.scale;
        for (int64_t f = 0; f < s.features; ++f) {
          r.dq[(h * s.queries + i) * s.features + f] += ds * k[(h * s.keys + j) * s.features + f];
          r.dk[(h * s.keys + j) * s.features + f] += ds * query[f];
        }
      }
    }
  }
  return r;
}

void check(Kernels& kernels, const Sizes& s, bool causal, DType dtype, const std::string& what,
           const Array& bias = {}) {
  AttentionOptions options{causal, 1 / std::sqrt(static_cast<double>(s.features))};
  if (bias) options.bias = bias.expand({s.batch, s.heads, s.queries, s.keys}).view();
  const Array q = heads_window(s.batch, s.heads, s.queries, s.features, dtype, 1);
  const Array k = heads_window(s.batch, s.heads, s.keys, s.features, dtype, 2);
  const Array v = heads_window(s.batch, s.heads, s.keys, s.values, dtype, 3);
  const Array dout = heads_window(s.batch, s.heads, s.queries, s.values, dtype, 4);
  const Array out = heads_window(s.batch, s.heads, s.queries, s.values, dtype, 5);
  const Array sums =
      Array::empty({s.batch, s.heads, s.queries}, dtype == DType::f64 ? DType::f64 : DType::f32);
  const Reference expected = reference(s, options, bias ? doubles(bias) : std::vector<double>(),
                                       doubles(q), doubles(k), doubles(v), doubles(dout));
  const double relative = 8 * relative_bound(dtype);
  const double absolute = dtype == DType::f64 ? 1e-14 : 2 * relative_bound(dtype);
  kernels.attention(q.view(), k.view(), v.view(), options, out.view(), sums.view());
  expect_near(doubles(out), expected.out, relative, absolute, what + " out");
  expect_near(doubles(sums), expected.log_sum_exp, relative, absolute, what + " log_sum_exp");

  const Array dq = heads_window(s.batch, s.heads, s.queries, s.features, dtype, 6);
  const Array dk = heads_window(s.batch, s.heads, s.keys, s.features, dtype, 7);
  const Array dv = heads_window(s.batch, s.heads, s.keys, s.values, dtype, 8);
  kernels.attention_backward(dout.view(), q.view(), k.view(), v.view(), out.view(), sums.view(),
                             options, dq.view(), dk.view(), dv.view());
  expect_near(doubles(dq), expected.dq, relative, 8 * absolute, what + " dq");
  expect_near(doubles(dk), expected.dk, relative, 8 * absolute, what + " dk");
  expect_near(doubles(dv), expected.dv, relative, 8 * absolute, what + " dv");
}

TEST(Attention, EqualsTheUnfusedFormBothWays) {
  const Sizes sizes[] = {{2, 3, 7, 7, 4, 4},    {1, 2, 128, 128, 16, 16}, {1, 1, 300, 300, 8, 8},
                         {1, 2, 5, 140, 8, 12}, {2, 1, 130, 257, 5, 3},   {1, 1, 1, 1, 1, 1},
                         {1, 2, 1, 33, 32, 32}};
  for (auto& level : all_levels()) {
    for (const Sizes& s : sizes) {
      for (bool causal : {false, true}) {
        for (DType dtype : kFloats) {
          check(level.kernels, s, causal, dtype,
                level.name + " " + std::string(name_of(dtype)) + (causal ? " causal " : " ") +
                    std::to_string(s.queries) + "x" + std::to_string(s.keys));
        }
      }
    }
  }
}

TEST(Attention, MoreQueriesThanKeys) {
  for (auto& level : all_levels()) {
    for (bool causal : {false, true}) {
      check(level.kernels, {1, 2, 200, 9, 4, 4}, causal, DType::f64, level.name);
    }
  }
}

// Some keys are hidden, and for a query all of them; rows of the bias are strided.
TEST(Attention, Bias) {
  constexpr int64_t kQueries = 70, kKeys = 90;
  for (auto& level : all_levels()) {
    for (DType dtype : kFloats) {
      for (Layout layout : {Layout::contiguous, Layout::transposed}) {
        const Array bias = random({kQueries, kKeys}, dtype, layout, -2, 2, 9);
        auto values = doubles(bias);
        for (int64_t j = 0; j < kKeys; ++j) {
          values[3 * kKeys + j] = values[j * 60] = -std::numeric_limits<double>::infinity();
        }
        set(bias, values);
        check(level.kernels, {2, 2, kQueries, kKeys, 8, 5}, false, dtype,
              level.name + " " + std::string(name_of(dtype)), bias);
      }
    }
  }
}

TEST(Attention, BitsDoNotDependOnTheThreadCount) {
  auto levels = all_levels();
  const Array q = heads_window(2, 3, 150, 16, DType::f32, 1);
  const AttentionOptions options{true, 0.25};
  std::vector<double> first;
  for (int threads : {1, 2, 3}) {
    const Threads scope(threads);
    const Array out = Array::empty({2, 3, 150, 16}, DType::f32);
    const Array sums = Array::empty({2, 3, 150}, DType::f32);
    levels.back().kernels.attention(q.view(), q.view(), q.view(), options, out.view(), sums.view());
    const Array dq = Array::empty(out.shape(), DType::f32);
    const Array dk = Array::empty(out.shape(), DType::f32);
    const Array dv = Array::empty(out.shape(), DType::f32);
    levels.back().kernels.attention_backward(q.view(), q.view(), q.view(), q.view(), out.view(),
                                             sums.view(), options, dq.view(), dk.view(), dv.view());
    std::vector<double> all;
    for (const Array& array : {out, dq, dk, dv}) {
      const auto values = doubles(array);
      all.insert(all.end(), values.begin(), values.end());
    }
    if (threads == 1) first = all;
    EXPECT_EQ(all, first);
  }
}

TEST(Attention, LargeScoresDoNotOverflow) {
  for (auto& level : all_levels()) {
    const Array q = Array::full({1, 1, 3, 4}, 1e4, DType::f32);
    const Array v = random({1, 1, 3, 4}, DType::f32);
    const Array out = Array::empty({1, 1, 3, 4}, DType::f32);
    const Array sums = Array::empty({1, 1, 3}, DType::f32);
    level.kernels.attention(q.view(), q.view(), v.view(), {true, 1}, out.view(), sums.view());
    for (double value : doubles(out)) EXPECT_TRUE(std::isfinite(value));
    EXPECT_NEAR(doubles(out)[0], doubles(v)[0], 1e-6);
  }
}

// A query of NaN is not one whose keys are all hidden, be they hidden but for one.
TEST(Attention, NanQueriesGiveNan) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  constexpr int64_t kTime = 20, kFeatures = 4, kRow = 3;
  const Shape shape{1, 1, kTime, kFeatures};
  const auto are_nan = [](const Array& rows) {
    for (double value : doubles(rows)) {
      if (!std::isnan(value)) return false;
    }
    return true;
  };
  std::vector<double> hides(kTime, -std::numeric_limits<double>::infinity());
  hides[7] = 0;
  const Array bias = Array::from(hides, {1, 1, 1, kTime}).expand({1, 1, kTime, kTime});
  for (auto& level : all_levels()) {
    for (DType dtype : kFloats) {
      for (bool biased : {false, true}) {
        const Array q = random(shape, dtype, Layout::contiguous, -1, 1, 1);
        const Array k = random(shape, dtype, Layout::contiguous, -1, 1, 2);
        const Array v = random(shape, dtype, Layout::contiguous, -1, 1, 3);
        set(q.narrow(2, kRow, 1), std::vector<double>(kFeatures, kNan));
        AttentionOptions options{false, 0.5};
        if (biased) options.bias = bias.view();
        const DType statistics = dtype == DType::f64 ? DType::f64 : DType::f32;
        const Array out = Array::empty(shape, dtype),
                    sums = Array::empty({1, 1, kTime}, statistics);
        level.kernels.attention(q.view(), k.view(), v.view(), options, out.view(), sums.view());
        EXPECT_TRUE(are_nan(out.narrow(2, kRow, 1))) << level.name << name_of(dtype) << biased;
        EXPECT_TRUE(are_nan(sums.narrow(2, kRow, 1)));
        for (double value : doubles(out.narrow(2, kRow + 1, 16))) EXPECT_FALSE(std::isnan(value));
        const Array dq = Array::empty(shape, dtype), dk = Array::empty(shape, dtype);
        const Array dv = Array::empty(shape, dtype);
        level.kernels.attention_backward(v.view(), q.view(), k.view(), v.view(), out.view(),
                                         sums.view(), options, dq.view(), dk.view(), dv.view());
        EXPECT_TRUE(are_nan(dq.narrow(2, kRow, 1)));
        EXPECT_TRUE(are_nan(dk) && are_nan(dv));
      }
    }
  }
}

}  // namespace
}  // namespace lockstep::testing
