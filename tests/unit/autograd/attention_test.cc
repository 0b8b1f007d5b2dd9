#include "lockstep/autograd/ops/attention.h"

#include <cmath>

#include "differentiable_case.h"
#include "lockstep/autograd/ops/index.h"
#include "lockstep/autograd/ops/linear_algebra.h"
#include "lockstep/autograd/ops/shape.h"

namespace lockstep::testing {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Tensor attend(const std::vector<Tensor>& in, const AttentionArguments& arguments = {}) {
  return scaled_dot_product_attention(in[0], in[1], in[2], arguments);
}

std::vector<Array> operands(Shape leading, int64_t queries, int64_t keys, int64_t width) {
  std::vector<Array> arrays;
  for (const auto& [time, features] : {std::pair(queries, 3L), {keys, 3L}, {keys, width}}) {
    Shape shape = leading;
    shape.append(time);
    shape.append(features);
    arrays.push_back(random_array(shape, arrays.size() + 1));
  }
  return arrays;
}

Array mask_of(std::initializer_list<int64_t> allowed, Shape shape) {
  return kernels::cast(Array::from<int64_t>(allowed, shape), DType::boolean);
}

TEST(AttentionOp, Gradients) {
  const Array mask = mask_of({1, 0, 1, 0, 0, 0}, {2, 3});  // the second query sees nothing
  const Array per_batch = mask_of({1, 1, 0, 0, 1, 1}, {2, 1, 1, 3});
  std::vector<Array> with_bias = operands({2, 2}, 2, 3, 4);
  with_bias.push_back(random_array({2, 1, 3}, 9));
  std::vector<Array> grouped = operands({2, 2}, 2, 3, 4);
  grouped[0] = random_array({2, 6, 2, 3}, 9);
  std::vector<Array> broadcast = operands({2, 2}, 2, 3, 4);
  broadcast[1] = random_array({1, 3, 3}, 9);
  std::vector<DifferentiableCase> cases;
  for (const Shape& leading : {Shape{}, Shape{2}, Shape{2, 1, 2}}) {
    cases.push_back({"leading " + leading.to_string(), [](const auto& in) { return attend(in); },
                     operands(leading, 2, 3, 4)});
  }
  const auto causal = [](const auto& in) { return attend(in, {.causal = true, .scale = 0.7}); };
  cases.push_back({"causal, few queries", causal, operands({2}, 2, 4, 3)});
  cases.push_back({"causal, few keys", causal, operands({2}, 4, 2, 3)});
  cases.push_back({"bool mask",
                   [=](const auto& in) { return attend(in, {.mask = mask, .scale = 0.7}); },
                   operands({2, 2}, 2, 3, 4)});
  cases.push_back({"mask of a batch",
                   [=](const auto& in) { return attend(in, {.mask = per_batch}); },
                   operands({2, 2}, 2, 3, 4)});
  cases.push_back(
      {"trained bias", [](const auto& in) { return attend(in, {.mask = in[3]}); }, with_bias});
  cases.push_back(
      {"constant bias",
       [bias = with_bias[3]](const auto& in) { return attend(in, {.mask = bias, .scale = 2}); },
       operands({2, 2}, 2, 3, 4)});
  cases.push_back({"grouped",
                   [](const auto& in) { return attend(in, {.causal = true, .enable_gqa = true}); },
                   grouped});
  cases.push_back(
      {"grouped with a mask",
       [=](const auto& in) { return attend(in, {.mask = per_batch, .enable_gqa = true}); },
       grouped});
  cases.push_back({"broadcast keys", [](const auto& in) { return attend(in); }, broadcast});
  cases.push_back({"dropout",
                   [=](const auto& in) {
                     context().random = {.seed = 5, .step = 1};
                     return attend(in, {.mask = mask, .dropout = 0.4});
                   },
                   operands({2}, 2, 3, 4)});
  for (const DifferentiableCase& c : cases) expect_differentiable(c);
}

TEST(AttentionOp, EveryDtype) {
  const Array mask = mask_of({1, 0, 1, 0, 0, 0}, {2, 3});
  expect_all_dtypes([](const auto& in) { return attend(in, {.causal = true}); },
                    operands({2, 2}, 5, 3, 4));
  expect_all_dtypes([=](const auto& in) { return attend(in, {.mask = mask}); },
                    operands({2, 2}, 2, 3, 4));
}

// By either kind of mask, fused and not.
TEST(AttentionOp, AQueryThatSeesNothingHasZerosAndNoGradient) {
  const Array bias = Array::from<double>({0, 0, 0, -kInfinity, -kInfinity, -kInfinity}, {2, 3});
  std::vector<Tensor> in = variables(operands({2}, 2, 3, 4));
  const Tensor trained = Tensor::variable(bias);
  for (const Tensor& mask : {Tensor(mask_of({1, 1, 1, 0, 0, 0}, {2, 3})), Tensor(bias), trained}) {
    const Tensor y = attend(in, {.mask = mask});
    expect_all_near(narrow(y, 1, 1, 1), Array::zeros({2, 1, 4}, DType::f64), 0);
    expect_all_near(narrow(y, 1, 0, 1), attend({narrow(in[0], 1, 0, 1), in[1], in[2]}), 1e-14);
    for (const Tensor& x : in) x.zero_grad();
    sum(y).backward();
    for (const Tensor& x : in) {
      for (double g : x.grad().to_vector<double>()) EXPECT_TRUE(std::isfinite(g));
    }
    expect_all_near(narrow(in[0].grad(), 1, 1, 1), Array::zeros({2, 1, 3}, DType::f64), 0);
  }
  for (double g : trained.grad().to_vector<double>()) EXPECT_TRUE(std::isfinite(g));
}

// Keys past the last query are seen by nobody: their gradient is written all the same.
TEST(AttentionOp, CausalCountsFromTheFirstKey) {
  const std::vector<Tensor> in = variables(operands({1}, 1, 3, 4));
  const Tensor y = attend(in, {.causal = true});
  expect_all_near(y, narrow(in[2], 1, 0, 1), 1e-14);
  sum(y).backward();
  expect_all_near(narrow(in[2].grad(), 1, 1, 2), Array::zeros({1, 2, 4}, DType::f64), 0);
  expect_all_near(in[1].grad(), Array::zeros({1, 3, 3}, DType::f64), 1e-14);
}

TEST(AttentionOp, StridesOfEveryKind) {
  const std::vector<Array> dense = operands({2, 2}, 4, 4, 3);
  std::vector<Tensor> strided;
  for (const Array& x : dense) {
    strided.push_back(Tensor::variable(kernels::copy(x.transpose(1, 3)).transpose(1, 3)));
  }
  const std::vector<Tensor> plain = variables(dense);
  const Tensor a = attend(plain), b = attend(strided);
  expect_all_near(b, a, 1e-14);
  sum(square(a)).backward();
  sum(square(b)).backward();
  for (size_t i = 0; i < 3; ++i) expect_all_near(strided[i].grad(), plain[i].grad(), 1e-14);
  const Tensor same = expand(narrow(plain[0], 2, 0, 1), {2, 2, 4, 3});
  expect_all_near(attend({same, plain[1], plain[2]}),
                  attend({contiguous(same), plain[1], plain[2]}), 1e-14);
}

TEST(AttentionOp, NothingInNothingOut) {
  for (const auto& [queries, keys, width] :
       {std::tuple(0L, 3L, 4L), {2L, 0L, 4L}, {2L, 3L, 0L}, {0L, 0L, 0L}}) {
    const std::vector<Tensor> in = variables(operands({2}, queries, keys, width));
    const Tensor mask(Array::full({queries, keys}, 1, DType::boolean));
    for (const Tensor& y : {attend(in), attend(in, {.mask = mask}), attend(in, {.causal = true}),
                            attend(in, {.dropout = 0.5})}) {
      EXPECT_EQ(y.shape(), (Shape{2, queries, width}));
      for (double value : y.to_vector<double>()) EXPECT_EQ(value, 0);
      sum(y).backward();
    }
    for (const Tensor& x : in) {
      for (double g : x.grad().to_vector<double>()) EXPECT_EQ(g, 0);
    }
  }
}

TEST(AttentionOp, Errors) {
  const std::string name = "scaled_dot_product_attention";
  const std::vector<Array> arrays = operands({2}, 2, 3, 4);
  const Tensor q(arrays[0]), k(arrays[1]), v(arrays[2]), none;
  const Tensor mask(mask_of({1, 0, 1, 0, 0, 1}, {2, 3}));
  const auto expect_refused = [&](const std::vector<Tensor>& in, AttentionArguments arguments) {
    expect_error(name, [&] { attend(in, arguments); });
  };
  expect_refused({none, k, v}, {});
  expect_refused({q, none, v}, {});
  expect_refused({q, k, none}, {});
  expect_refused({q, v, k}, {});
  expect_refused({q, k, Tensor(random_array({2, 4, 4}, 1))}, {});
  expect_refused({q, Tensor(random_array({3}, 1)), v}, {});
  expect_refused({q, Tensor(random_array({3, 3, 3}, 1)), v}, {});
  expect_refused({q, to(k, DType::f32), v}, {});
  expect_refused({to(q, DType::i64), to(k, DType::i64), to(v, DType::i64)}, {});
  expect_refused({q, k, v}, {.mask = mask, .causal = true});
  expect_refused({q, k, v}, {.mask = to(mask, DType::i64)});
  expect_refused({q, k, v}, {.mask = Tensor(random_array({3, 2}, 1))});
  expect_refused({q, k, v}, {.mask = Tensor(random_array({5, 1, 2, 3}, 1))});
  expect_refused({narrow(q, 0, 0, 1), k, v}, {.enable_gqa = true});
  expect_error("packed_attention", [&] { packed_attention(none, 1); });
  expect_error("packed_attention", [&] { packed_attention(q, 2); });
  expect_error("packed_attention", [&] { packed_attention(q, 0); });
}

}  // namespace
}  // namespace lockstep::testing
