#include <gtest/gtest.h>

#include <limits>

#include "support/device_check.h"

namespace lockstep {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

struct Sizes {
  int64_t batch, heads, queries, keys, features, values;
};

enum class Memory { packed, plain, odd };

// [batch, heads, time, feature]: a window of [batch, time, 2 * heads * feature] as models have it,
// one of its own, or one that begins and steps where no vector fits.
Array heads_of(Memory memory, int64_t batch, int64_t heads, int64_t time, int64_t features,
               DType dtype, uint64_t seed) {
  if (memory == Memory::plain) {
    return test::values({batch, heads, time, features}, dtype, -1, 1, seed);
  }
  if (memory == Memory::odd) {
    return test::values({batch, heads, time, features + 3}, dtype, -1, 1, seed)
        .narrow(3, 1, features);
  }
  return test::values({batch, time, 2 * heads * features}, dtype, -1, 1, seed)
      .narrow(2, heads * features, heads * features)
      .try_view({batch, time, heads, features})
      .transpose(1, 2);
}

// dq, dk or dv among others in memory, which must stay as they were.
Array unset(const Array& like) {
  const Shape& s = like.shape();
  return Array::full({s[0], s[2], 2, s[1], s[3]}, kNan, like.dtype()).select(2, 1).transpose(1, 2);
}

struct Problem {
  Sizes sizes;
  bool causal = false;
  DType dtype = DType::f32;
  Memory memory = Memory::packed;
  Array bias = {};  // [batch, heads, queries, keys], any of them 1
};

struct Bound {
  double out, gradients;
};

Bound bound_of(DType dtype) {
  if (dtype == DType::f64) return {1e-14, 1e-13};
  if (dtype == DType::f32) return {2e-6, 2e-5};
  return {test::tolerance(dtype, 1), test::tolerance(dtype, 2)};
}

void check(const Problem& p) {
  const Sizes& s = p.sizes;
  const double scale = 1 / std::sqrt(static_cast<double>(s.features));
  AttentionOptions on_host{p.causal, scale}, on_device = on_host;
  Array bias, device_bias;
  if (p.bias) {
    bias = p.bias.expand({s.batch, s.heads, s.queries, s.keys});
    device_bias = test::on_device(bias);
    on_host.bias = bias.view();
    on_device.bias = device_bias.view();
  }
  const auto make = [&](int64_t time, int64_t features, uint64_t seed) {
    return heads_of(p.memory, s.batch, s.heads, time, features, p.dtype, seed);
  };
  const Array q = make(s.queries, s.features, 1), k = make(s.keys, s.features, 2),
              v = make(s.keys, s.values, 3), dout = make(s.queries, s.values, 4);
  const DType statistics = p.dtype == DType::f64 ? DType::f64 : DType::f32;
  const Array out = unset(dout);
  const Array log_sum_exp = Array::full({s.batch, s.heads, s.queries}, kNan, statistics);
  const Array dq = unset(q), dk = unset(k), dv = unset(v);
  const Array device[] = {test::on_device(q),   test::on_device(k),           test::on_device(v),
                          test::on_device(out), test::on_device(log_sum_exp), test::on_device(dout),
                          test::on_device(dq),  test::on_device(dk),          test::on_device(dv)};

  test::host_kernels().attention(q.view(), k.view(), v.view(), on_host, out.view(),
                                 log_sum_exp.view());
  test::device_kernels().attention(device[0].view(), device[1].view(), device[2].view(), on_device,
                                   device[3].view(), device[4].view());
  const Bound bound = bound_of(p.dtype);
  test::expect_near(device[3], out, bound.out);
  test::expect_near(device[4], log_sum_exp, statistics == DType::f64 ? 1e-14 : 2e-6);

  test::host_kernels().attention_backward(dout.view(), q.view(), k.view(), v.view(), out.view(),
                                          log_sum_exp.view(), on_host, dq.view(), dk.view(),
                                          dv.view());
  const Array saved = test::on_device(out), saved_statistics = test::on_device(log_sum_exp);
  test::device_kernels().attention_backward(
      device[5].view(), device[0].view(), device[1].view(), device[2].view(), saved.view(),
      saved_statistics.view(), on_device, device[6].view(), device[7].view(), device[8].view());
  test::expect_near(device[6], dq, bound.gradients);
  test::expect_near(device[7], dk, bound.gradients);
  test::expect_near(device[8], dv, bound.gradients);
}

class CudaAttention : public ::testing::TestWithParam<DType> {};

// Less than a tile of queries and keys, one, several; features of one tile and more.
TEST_P(CudaAttention, Sizes) {
  for (const Sizes& sizes :
       {Sizes{1, 1, 1, 1, 1, 1}, Sizes{2, 3, 17, 17, 8, 8}, Sizes{1, 2, 64, 64, 64, 64},
        Sizes{1, 1, 130, 130, 32, 32}, Sizes{2, 1, 33, 33, 72, 40}, Sizes{1, 1, 40, 40, 24, 136}}) {
    for (const bool causal : {true, false}) check({sizes, causal, GetParam()});
  }
}

TEST_P(CudaAttention, QueriesAndKeysOfOtherNumbers) {
  for (const Sizes& sizes : {Sizes{2, 2, 1, 100, 16, 16}, Sizes{1, 2, 5, 70, 16, 16},
                             Sizes{1, 2, 100, 9, 16, 16}, Sizes{1, 1, 70, 140, 16, 16}}) {
    for (const bool causal : {true, false}) check({sizes, causal, GetParam()});
  }
}

TEST_P(CudaAttention, Memory) {
  for (const Memory memory : {Memory::plain, Memory::odd, Memory::packed}) {
    check({{2, 2, 35, 35, 16, 16}, true, GetParam(), memory});
    check({{2, 2, 35, 35, 9, 7}, false, GetParam(), memory});
  }
}

INSTANTIATE_TEST_SUITE_P(Dtypes, CudaAttention,
                         ::testing::Values(DType::f64, DType::f32, DType::bf16, DType::f16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

// Of every stride and dtype, with keys hidden, and queries from which all are.
TEST(CudaAttentionBias, HidesKeys) {
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    for (const bool causal : {true, false}) {
      const Sizes sizes{2, 3, 37, 41, 16, 8};
      std::vector<double> numbers;
      for (int i = 0; i < 37 * 41; ++i) {
        const int query = i / 41, key = i % 41;
        numbers.push_back(query % 9 == 4 || (query + key) % 5 == 0 ? -kInfinity : 0.125 * (i % 7));
      }
      Problem p{sizes, causal, dtype};
      p.bias = Array::from(numbers, {1, 1, 37, 41});
      check(p);
    }
  }
}

TEST(CudaAttentionBias, Layouts) {
  const Sizes sizes{2, 3, 20, 24, 16, 16};
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    Problem p{sizes, true, dtype};
    p.bias = test::values({2, 1, 1, 24}, dtype, -2, 2);
    check(p);
    p.bias = test::values({1, 3, 24, 20}, dtype, -2, 2).transpose(2, 3);
    check(p);
    p.bias = test::values({2, 3, 20, 24}, dtype, -2, 2);
    check(p);
  }
}

TEST(CudaAttention, BroadcastKeysAndEqualHeads) {
  const Array q = test::values({2, 4, 20, 16}, DType::f32, -1, 1, 1);
  const Array k = test::values({2, 1, 30, 16}, DType::f32, -1, 1, 2).expand({2, 4, 30, 16});
  const Array v = test::values({1, 4, 30, 16}, DType::f32, -1, 1, 3).expand({2, 4, 30, 16});
  const Array out = Array::full({2, 4, 20, 16}, kNan, DType::f32);
  const Array log_sum_exp = Array::full({2, 4, 20}, kNan, DType::f32);
  const Array device_out = test::on_device(out), device_log = test::on_device(log_sum_exp);
  const AttentionOptions options{false, 0.25};
  test::host_kernels().attention(q.view(), k.view(), v.view(), options, out.view(),
                                 log_sum_exp.view());
  const Array device_q = test::on_device(q), device_k = test::on_device(k),
              device_v = test::on_device(v);
  test::device_kernels().attention(device_q.view(), device_k.view(), device_v.view(), options,
                                   device_out.view(), device_log.view());
  test::expect_near(device_out, out, 2e-6);
  test::expect_near(device_log, log_sum_exp, 2e-6);
}

TEST(CudaAttention, ScoresFarApart) {
  const Array q = Array::full({1, 1, 20, 8}, 30, DType::f32);
  const Array k = test::values({1, 1, 90, 8}, DType::f32, -30, 30, 2);
  const Array v = test::values({1, 1, 90, 8}, DType::f32, -1, 1, 3);
  const Array out = Array::full({1, 1, 20, 8}, kNan, DType::f32);
  const Array log_sum_exp = Array::full({1, 1, 20}, kNan, DType::f32);
  const Array device_out = test::on_device(out), device_log = test::on_device(log_sum_exp);
  const Array device_q = test::on_device(q), device_k = test::on_device(k),
              device_v = test::on_device(v);
  test::host_kernels().attention(q.view(), k.view(), v.view(), {}, out.view(), log_sum_exp.view());
  test::device_kernels().attention(device_q.view(), device_k.view(), device_v.view(), {},
                                   device_out.view(), device_log.view());
  test::expect_near(device_out, out, 1e-4);
  test::expect_near(device_log, log_sum_exp, 1e-6);
}

TEST(CudaAttention, NoKeysAndNoQueries) {
  for (const Sizes& sizes :
       {Sizes{2, 2, 3, 0, 8, 8}, Sizes{2, 2, 0, 3, 8, 8}, Sizes{0, 2, 3, 3, 8, 8}}) {
    check({sizes, false, DType::f32, Memory::plain});
  }
}

}  // namespace
}  // namespace lockstep
