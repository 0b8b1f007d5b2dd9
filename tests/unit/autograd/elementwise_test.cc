// Every elementwise functor of the lists as an op: gradients against central differences, recorded
// against fused, the gradient's gradient, and second derivatives where formulas have corners.
#include "lockstep/autograd/ops/elementwise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/gradient_check.h"
#include "unit/runtime/functor_cases.h"

namespace lockstep::testing {
namespace {

constexpr double kPoints[] = {-2.3, -1.1, -0.7, -0.15, 0.2, 0.45, 0.6, 1.4, 1.9, 3.1};
// 0, attributes (bounds), the hard functions' corners, far out.
constexpr double kCorners[] = {0, 0.3, 1.75, -1, 1, -3, 3, 6, 20, -40, 40, -800, 800};

struct UnaryOp {
  UnaryCase scalar;
  Tensor (*call)(const Tensor& x);
};

struct BinaryOp {
  BinaryCase scalar;
  Tensor (*call)(const Tensor& a, const Tensor& b);
};

std::vector<UnaryOp> unary_ops() {
  std::vector<UnaryOp> ops;
  const std::vector<UnaryCase> cases = unary_cases();
  math::for_each(math::UnaryOps{}, [&]<class F>() {
    ops.push_back({cases[math::index_of<math::UnaryOps, F>], [](const Tensor& x) {
                     return internal::unary<F>(x, {kAttributes[0], kAttributes[1]});
                   }});
  });
  return ops;
}

std::vector<BinaryOp> binary_ops() {
  std::vector<BinaryOp> ops;
  const std::vector<BinaryCase> cases = binary_cases();
  math::for_each(math::BinaryOps{}, [&]<class F>() {
    ops.push_back({cases[math::index_of<math::BinaryOps, F>],
                   [](const Tensor& a, const Tensor& b) { return internal::binary<F>(a, b); }});
  });
  return ops;
}

Array points(const std::vector<double>& values) {
  return Array::from(values, {static_cast<int64_t>(values.size())});
}

void expect_derivatives(const Function& f, const std::vector<Array>& inputs) {
  expect_gradients(f, inputs);
  expect_recorded_equals_fused(f, inputs);
  // A function that is linear in its inputs has no second gradient: its square has one.
  expect_second_gradients([&](const auto& in) { return square(f(in)); }, inputs, 2e-5);
}

TEST(ElementwiseOps, UnaryDerivatives) {
  for (const UnaryOp& op : unary_ops()) {
    SCOPED_TRACE(op.scalar.name);
    std::vector<double> inside;
    for (double x : kPoints) {
      if (!std::isnan(op.scalar.value(x))) inside.push_back(x);
    }
    // A step function beside what has a gradient: it must add nothing.
    const bool flat = op.scalar.reads.is_zero;
    expect_derivatives(
        [&](const auto& in) { return flat ? op.call(in[0]) + in[0] : op.call(in[0]); },
        {points(inside)});
  }
}

TEST(ElementwiseOps, BinaryDerivatives) {
  for (const BinaryOp& op : binary_ops()) {
    SCOPED_TRACE(op.scalar.name);
    std::vector<double> as, bs;
    for (double a : kPoints) {
      for (double b : kPoints) {
        const double quotient = a / b;
        if (a == b || std::abs(quotient - std::rint(quotient)) < 1e-2) continue;
        if (std::isnan(op.scalar.grad[1](a, b, op.scalar.value(a, b)))) continue;
        as.push_back(a);
        bs.push_back(b);
      }
    }
    const bool flat = op.scalar.reads[0].is_zero;
    const Function f = [&](const auto& in) {
      const Tensor y = op.call(in[0], in[1]);
      return flat ? y + in[0] * in[1] : y;
    };
    expect_derivatives(f, {points(as), points(bs)});
    // Broadcast both ways.
    expect_derivatives(f, {random_array({2, 1}, 4, 0.5, 1), random_array({1, 3}, 5, 1.1, 2)});
  }
}

double second_derivative(const UnaryOp& op, double at) {
  const Tensor x = Tensor::variable(Array::full({}, at, DType::f64));
  const Tensor first = grad(op.call(x), x, {.create_graph = true, .allow_unused = true});
  if (!first || !first.requires_grad()) return 0;
  const Tensor second = grad(first, x, {.allow_unused = true});
  return second ? second.item() : 0;
}

TEST(ElementwiseOps, SecondDerivativesAtCornersAreNotNan) {
  for (const UnaryOp& op : unary_ops()) {
    for (double x : kCorners) {
      const double y = op.scalar.value(x);
      if (!std::isfinite(y) || !std::isfinite(op.scalar.grad(x, y))) continue;
      EXPECT_FALSE(std::isnan(second_derivative(op, x))) << op.scalar.name << " at " << x;
    }
  }
}

struct Second {
  const char* name;
  Tensor (*call)(const Tensor& x);
  double at, expected;
};

TEST(ElementwiseOps, SecondDerivativesAtCornersFollowPyTorch) {
  const Second cases[] = {
      {"elu", [](const Tensor& x) { return elu(x); }, 0, 0},
      {"elu", [](const Tensor& x) { return elu(x); }, -1, std::exp(-1)},
      {"selu", selu, 0, 0},
      {"celu", [](const Tensor& x) { return celu(x, 2); }, 0, 0},
      {"hardswish", hardswish, 0, 1.0 / 3},
      {"hardswish", hardswish, 3, 0},
      {"hardswish", hardswish, -3, 0},
      {"silu", silu, 0, 0.5},
      {"mish", mish, 0, 0.64},
      {"logsigmoid", logsigmoid, 0, -0.25},
      {"softsign", softsign, 0, 0},
      {"sigmoid", sigmoid, 0, 0},
      {"relu", relu, 0, 0},
      {"abs", abs, 0, 0},
      {"pow_2", [](const Tensor& x) { return pow(x, 2); }, 0, 2},
      {"pow_3", [](const Tensor& x) { return pow(x, 3); }, 0, 0},
      {"pow_1", [](const Tensor& x) { return pow(x, 1); }, 0, 0},
      {"pow_1.5", [](const Tensor& x) { return pow(x, 1.5); }, 0,
       std::numeric_limits<double>::infinity()},
      {"2_pow", [](const Tensor& x) { return pow(2.0, x); }, 0, std::log(2.0) * std::log(2.0)},
  };
  for (const Second& c : cases) {
    const double found = second_derivative({{}, c.call}, c.at);
    if (std::isinf(c.expected)) {
      EXPECT_EQ(found, c.expected) << c.name;
    } else {
      EXPECT_NEAR(found, c.expected, 1e-12) << c.name << " at " << c.at;
    }
  }
}

// Literals in a formula must not raise what it computes with.
TEST(ElementwiseOps, RecordedGradientsKeepTheDtype) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    for (const UnaryOp& op : unary_ops()) {
      const Tensor x = Tensor::variable(Array::full({3}, 0.5, dtype));
      const Tensor first = grad({std::array{sum(op.call(x))}}, {std::array{x}}, {},
                                {.create_graph = true, .allow_unused = true})[0];
      EXPECT_EQ(first ? first.dtype() : dtype, dtype) << op.scalar.name;
    }
  }
}

TEST(ElementwiseOps, CompositesHaveTheirDerivatives) {
  const Array a = random_array({2, 3}, 1), b = random_array({3}, 2), c = random_array({2, 1}, 3);
  const std::pair<const char*, Function> functions[] = {
      {"lerp", [](const auto& in) { return lerp(in[0], in[1], in[2]); }},
      {"lerp_number", [](const auto& in) { return lerp(in[0], in[1], 0.3) * in[2]; }},
      {"lerp_far", [](const auto& in) { return lerp(in[0], in[1], 0.8) * in[2]; }},
      {"addcmul", [](const auto& in) { return addcmul(in[0], in[1], in[2], -0.7); }},
      {"add_alpha", [](const auto& in) { return add(in[0], in[1], -2.5) * in[2]; }},
      {"sub_alpha", [](const auto& in) { return sub(in[0], in[1], 3) * in[2]; }},
      {"clamp_tensors", [](const auto& in) { return clamp(in[0] * 3, in[1] - 1, in[2] + 1); }},
      {"where", [](const auto& in) { return where(in[0] > in[1], in[0] * in[2], in[1]); }},
      {"numbers", [](const auto& in) { return 3 - (2 * in[0] + 1.0) / 4 + 1 / (in[1] + 3); }},
      {"same_operand_twice", [](const auto& in) { return in[0] * in[0]; }},
      {"scalar_base", [](const auto& in) { return pow(2.5, in[0]) + pow(in[1] + 2, 2.5); }},
  };
  for (const auto& [name, f] : functions) {
    SCOPED_TRACE(name);
    expect_derivatives(f, {a, b, c});
  }
}

TEST(ElementwiseOps, ClampWithTensorsSharesGradientsAsPyTorch) {
  // x, min, max, then the gradients: PyTorch 2.15.
  const double cases[][6] = {{1, 1, 2, 0.5, 0.5, 0}, {2, 1, 2, 0.5, 0, 0.5}, {0, 1, 2, 0, 1, 0},
                             {3, 1, 2, 0, 0, 1},     {1.5, 1, 2, 1, 0, 0},   {1.5, 2, 1, 0, 0, 1},
                             {1, 1, 1, 1, 0, 0},     {0, 1, 1, 0, 1, 0},     {2, 1, 1, 0, 0, 1},
                             {2, 2, 1, 0, 0, 1},     {1, 2, 1, 0, 0, 1},     {1, 0, 1, 0.5, 0, 0.5},
                             {NAN, 1, 2, 1, 0, 0}};
  for (const auto& c : cases) {
    std::vector<Tensor> inputs;
    for (int i = 0; i < 3; ++i) {
      inputs.push_back(Tensor::variable(Array::full({}, c[i], DType::f64)));
    }
    const Tensor y = clamp(inputs[0], inputs[1], inputs[2]);
    const auto gradients = grad({&y, 1}, inputs);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(gradients[i].item(), c[3 + i]) << c[0] << " in " << c[1] << ", " << c[2];
    }
  }
}

TEST(ElementwiseOps, ClampWithOneBound) {
  const Tensor x = Tensor::variable(Array::from<double>({-INFINITY, 0, 1, INFINITY}, {4}));
  const Tensor low = clamp(x, 0, std::nullopt), high = clamp(x, std::nullopt, 0.5);
  EXPECT_EQ(low.to_vector<double>(), (std::vector<double>{0, 0, 1, INFINITY}));
  EXPECT_EQ(high.to_vector<double>(), (std::vector<double>{-INFINITY, 0, 0.5, 0.5}));
  EXPECT_EQ(grad(sum(low), x).to_vector<double>(), (std::vector<double>{0, 0, 1, 1}));
  EXPECT_EQ(grad(sum(high), x).to_vector<double>(), (std::vector<double>{1, 1, 0, 0}));
  EXPECT_THROW(clamp(x, std::nullopt, std::nullopt), Error);
  EXPECT_THROW(clamp(x, Tensor(), Tensor()), Error);
}

TEST(ElementwiseOps, PredicatesAndLogic) {
  const Tensor x(Array::from<double>({0, NAN, INFINITY, -INFINITY, 2}, {5}));
  using Bools = std::vector<bool>;
  EXPECT_EQ(isnan(x).to_vector<bool>(), (Bools{false, true, false, false, false}));
  EXPECT_EQ(isinf(x).to_vector<bool>(), (Bools{false, false, true, true, false}));
  EXPECT_EQ(isfinite(x).to_vector<bool>(), (Bools{true, false, false, false, true}));
  EXPECT_EQ(logical_not(x).to_vector<bool>(), (Bools{true, false, false, false, false}));
  const Tensor i(Array::from<int64_t>({1, 1, 0, 0, 3}, {5}));
  EXPECT_EQ(logical_and(x, i).to_vector<bool>(), (Bools{false, true, false, false, true}));
  EXPECT_EQ(logical_or(x, i).to_vector<bool>(), (Bools{true, true, true, true, true}));
  EXPECT_EQ(logical_xor(x, i).to_vector<bool>(), (Bools{true, false, true, true, false}));
  EXPECT_EQ((~(i > 0)).to_vector<bool>(), (Bools{false, false, true, true, false}));
  EXPECT_EQ(((i > 0) ^ (i == 3)).to_vector<bool>(), (Bools{true, true, false, false, false}));
  EXPECT_EQ((3 == i).to_vector<bool>(), (i == 3).to_vector<bool>());
  EXPECT_EQ((3 != i).to_vector<bool>(), (i < 3).to_vector<bool>());
  EXPECT_EQ((1 >= i).to_vector<bool>(), (i <= 1).to_vector<bool>());
  EXPECT_THROW(i & i, Error);
  EXPECT_THROW(~i, Error);
}

TEST(ElementwiseOps, CompoundAssignment) {
  Tensor w = Tensor::variable(Array::from<float>({1, 2}, {2}));
  const Tensor same = w;
  sum(w * w).backward();
  {
    const NoGrad no_grad;
    w -= 0.5 * w.grad();
  }
  EXPECT_TRUE(w.is_leaf() && w.requires_grad());
  EXPECT_EQ(same.to_vector<float>(), (std::vector<float>{0, 0}));  // in place
  Tensor y = w;
  y += 1;
  y *= y;
  y /= 2;
  EXPECT_TRUE(y.requires_grad() && !y.is_leaf());
  EXPECT_EQ(y.to_vector<float>(), (std::vector<float>{0.5, 0.5}));
  EXPECT_EQ(w.to_vector<float>(), (std::vector<float>{0, 0}));  // `y` was rebound
  const NoGrad no_grad;
  Tensor expanded(Array::full({1}, 1, DType::f32).expand({3}));
  Tensor integers(Array::from<int64_t>({1, 2}, {2}));
  EXPECT_THROW(expanded += 1, Error);
  EXPECT_THROW(integers += 0.5, Error);
  EXPECT_THROW(w += Tensor(Array::zeros({2, 2}, DType::f32)), Error);
}

TEST(ElementwiseOps, EmptyTensorsAndWrongShapesAreErrors) {
  const Tensor none, x(Array::zeros({2}, DType::f32)), y(Array::zeros({3}, DType::f32));
  for (const UnaryOp& op : unary_ops()) EXPECT_THROW(op.call(none), Error) << op.scalar.name;
  for (const BinaryOp& op : binary_ops()) {
    EXPECT_THROW(op.call(none, x), Error) << op.scalar.name;
    EXPECT_THROW(op.call(x, none), Error) << op.scalar.name;
    EXPECT_THROW(op.call(none, none), Error) << op.scalar.name;
    EXPECT_THROW(op.call(x, y), Error) << op.scalar.name;
  }
  EXPECT_THROW(where(none, x, x), Error);
  EXPECT_THROW(where(x, x, x), Error);
  EXPECT_THROW(where(x > 0, x, y), Error);
  EXPECT_THROW(x == none, Error);
  EXPECT_THROW(to(none, DType::f64), Error);
  EXPECT_THROW(isinf(none), Error);
  EXPECT_THROW(none.clone(), Error);
  EXPECT_THROW(none.item<float>(), Error);
}

}  // namespace
}  // namespace lockstep::testing
