// Reductions and scans: gradients of every order against differences, and PyTorch's edge cases.

#include "lockstep/autograd/ops/reduce.h"

#include <gtest/gtest.h>

#include <limits>

#include "lockstep/autograd/ops/shape.h"
#include "support/gradient_check.h"

namespace lockstep::testing {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
const double kNan = std::nan("");

Tensor values(std::initializer_list<double> list) {
  return Array::from(list, {static_cast<int64_t>(list.size())});
}

struct Case {
  std::string name;
  std::function<Tensor(const Tensor&)> function;
  Array input;
};

std::vector<Case> cases() {
  const Array x = random_array({3, 4, 2}, 1, 0.2, 2);
  const Array zeros = Array::from({0.0, 1.5, 0.0, 2.0, 0.0, -3.0, 0.5, 1.0, 2.0}, {3, 3});
  std::vector<Case> all;
  for (const std::vector<int>& dims :
       {std::vector<int>{}, std::vector<int>{1}, std::vector<int>{-1, 0}}) {
    for (bool keepdim : {false, true}) {
      const std::string at = " over " + std::to_string(dims.size()) + (keepdim ? " kept" : "");
      const auto add = [&](const char* name, auto f) { all.push_back({name + at, f, x}); };
      add("sum", [=](const Tensor& t) { return square(sum(t, dims, keepdim)); });
      add("mean", [=](const Tensor& t) { return square(mean(t, dims, keepdim)); });
      add("var", [=](const Tensor& t) { return var(t, dims, 1, keepdim); });
      add("std", [=](const Tensor& t) { return stddev(t, dims, 0, keepdim); });
      add("amax", [=](const Tensor& t) { return square(amax(t, dims, keepdim)); });
      add("amin", [=](const Tensor& t) { return square(amin(t, dims, keepdim)); });
      add("logsumexp", [=](const Tensor& t) { return logsumexp(t, dims, keepdim); });
      for (double p : {1.0, 2.0, 3.0, 0.5, -1.5, kInfinity, -kInfinity}) {
        add("norm", [=](const Tensor& t) { return square(norm(t, p, dims, keepdim)); });
      }
    }
  }
  all.push_back({"max", [](const Tensor& t) { return square(max(t, 1).values); }, x});
  all.push_back({"min", [](const Tensor& t) { return square(min(t, -1, true).values); }, x});
  all.push_back({"max of all", [](const Tensor& t) { return square(max(t)); }, x});
  all.push_back({"min of all", [](const Tensor& t) { return square(min(t)); }, x});
  for (int dim : {0, 1}) {
    all.push_back({"cumsum", [=](const Tensor& t) { return square(cumsum(t, dim)); }, x});
    all.push_back({"cumprod", [=](const Tensor& t) { return cumprod(t, dim); }, zeros});
    all.push_back({"prod", [=](const Tensor& t) { return prod(t, dim); }, zeros});
  }
  all.push_back({"prod of all", [](const Tensor& t) { return prod(t); }, x});
  return all;
}

TEST(Reduce, GradientsEqualDifferences) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    expect_gradients([&](const auto& in) { return c.function(in[0]); }, {c.input});
  }
}

TEST(Reduce, SecondGradientsEqualDifferences) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    expect_second_gradients([&](const auto& in) { return c.function(in[0]); }, {c.input});
  }
}

TEST(Reduce, RecordedEqualsFused) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    expect_recorded_equals_fused([&](const auto& in) { return c.function(in[0]); }, {c.input});
  }
}

std::vector<double> gradient(const std::function<Tensor(const Tensor&)>& f,
                             std::initializer_list<double> list) {
  const Tensor x = Tensor::variable(values(list).value());
  return grad(sum(f(x)), x).to_vector<double>();
}

using Doubles = std::vector<double>;

TEST(Reduce, TiesAndCorners) {
  EXPECT_EQ(gradient([](const Tensor& x) { return amax(x); }, {1, 3, 3, 2}),
            (Doubles{0, .5, .5, 0}));
  EXPECT_EQ(gradient([](const Tensor& x) { return min(x); }, {1, 1, 3, 2}),
            (Doubles{.5, .5, 0, 0}));
  EXPECT_EQ(gradient([](const Tensor& x) { return max(x, 0).values; }, {1, 3, 3, 2}),
            (Doubles{0, 1, 0, 0}));
  EXPECT_EQ(gradient([](const Tensor& x) { return max(x); }, {1, kNan, 3, kNan}),
            (Doubles{0, .5, 0, .5}));
  for (double p : {0.0, 0.5, 1.0, 1.5, 2.0, 3.0, kInfinity, -kInfinity}) {
    const auto f = [&](const Tensor& x) { return norm(x, p); };
    if (p == 0) continue;  // nothing flows
    EXPECT_EQ(gradient(f, {0, 0}), (Doubles{0, 0})) << p;
  }
  EXPECT_EQ(gradient([](const Tensor& x) { return prod(x); }, {2, kInfinity, 3}),
            (Doubles{kInfinity, 6, kInfinity}));
  EXPECT_EQ(norm(values({0, 2, -3}), 0).item(), 2);
  EXPECT_EQ(gradient([](const Tensor& x) { return stddev(x); }, {2, 2}), (Doubles{0, 0}));
  EXPECT_TRUE(std::isnan(var(values({1})).item()));
  EXPECT_TRUE(std::isnan(amax(values({1, kNan, 3})).item()));
  EXPECT_EQ(argmax(values({1, kNan, 3, kNan})).item(), 1);
}

TEST(Reduce, LogSumExpOfInfinities) {
  EXPECT_EQ(logsumexp(values({-kInfinity, -kInfinity})).item(), -kInfinity);
  EXPECT_EQ(logsumexp(values({1, kInfinity})).item(), kInfinity);
  EXPECT_NEAR(logsumexp(values({1000, 1000})).item(), 1000 + std::log(2.0), 1e-12);
  const auto f = [](const Tensor& x) { return logsumexp(reshape(x, {2, 2}), {1}); };
  EXPECT_EQ(gradient(f, {-kInfinity, -kInfinity, 0, 0}), (Doubles{0, 0, .5, .5}));
  const Tensor x = Tensor::variable(values({-kInfinity, -kInfinity}).value());
  const Tensor first = grad(logsumexp(x), x, {.create_graph = true});
  for (double second : grad(sum(square(first)), x).to_vector<double>()) EXPECT_EQ(second, 0);
}

TEST(Reduce, OverNothing) {
  const Tensor x = Array::empty({2, 0}, DType::f64);
  EXPECT_EQ(sum(x, {1}).to_vector<double>(), (Doubles{0, 0}));
  EXPECT_EQ(prod(x, 1).to_vector<double>(), (Doubles{1, 1}));
  EXPECT_TRUE(std::isnan(mean(x).item()));
  EXPECT_TRUE(std::isnan(var(x).item()));
  EXPECT_EQ(logsumexp(x, {1}).to_vector<double>(), (Doubles{-kInfinity, -kInfinity}));
  EXPECT_EQ(norm(x, 2, {1}).to_vector<double>(), (Doubles{0, 0}));
  EXPECT_EQ(all(x, {1}).to_vector<double>(), (Doubles{1, 1}));
  EXPECT_EQ(any(x, {1}).to_vector<double>(), (Doubles{0, 0}));
  EXPECT_EQ(amax(x, {0}).shape(), (Shape{0}));
  EXPECT_EQ(cumsum(x, 1).shape(), (Shape{2, 0}));
  EXPECT_EQ(cumprod(x, 0).shape(), (Shape{2, 0}));
  EXPECT_THROW(amax(x), Error);
  EXPECT_THROW(amin(x, {1}), Error);
  EXPECT_THROW(max(x), Error);
  EXPECT_THROW(max(x, 1), Error);
  EXPECT_THROW(argmin(x), Error);
  EXPECT_THROW(norm(x, kInfinity), Error);
  EXPECT_THROW(norm(x, -1), Error);
}

TEST(Reduce, DtypesOfResults) {
  for (DType dtype : {DType::i64, DType::i32, DType::u8, DType::boolean}) {
    const Tensor x = kernels::cast(Array::from<int64_t>({1, 0, 1, 1}, {2, 2}), dtype);
    for (const Tensor& y : {sum(x), prod(x), cumsum(x, 0), cumprod(x, 1), argmax(x)}) {
      EXPECT_EQ(y.dtype(), DType::i64);
    }
    EXPECT_EQ(sum(x).item(), 3);
    EXPECT_EQ(prod(x, 1).to_vector<double>(), (Doubles{0, 1}));
    EXPECT_EQ(amax(x, {0}).dtype(), dtype);
    EXPECT_EQ(max(x, 1).values.to_vector<double>(), (Doubles{1, 1}));
    EXPECT_EQ(all(x, {0}).to_vector<double>(), (Doubles{1, 0}));
    EXPECT_EQ(any(x, {0}).dtype(), dtype == DType::u8 ? dtype : DType::boolean);
    EXPECT_THROW(mean(x), Error);
    EXPECT_THROW(var(x), Error);
    EXPECT_THROW(logsumexp(x), Error);
    EXPECT_THROW(norm(x), Error);
  }
  for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const Tensor x = kernels::cast(random_array({40}, 3, 0.5, 1.5), dtype);
    const Tensor exact = kernels::cast(x.value(), DType::f64);
    const double bound = dtype == DType::f32 ? 1e-6 : 1e-2;
    const auto check = [&](const Tensor& y, const Tensor& expected) {
      EXPECT_EQ(y.dtype(), dtype);
      EXPECT_NEAR(y.item() / expected.item(), 1, bound);
    };
    check(sum(x), sum(exact));
    check(var(x), var(exact));
    check(stddev(x), stddev(exact));
    check(logsumexp(x), logsumexp(exact));
    check(norm(x, 3), norm(exact, 3));
    check(prod(x), prod(exact));
    check(narrow(cumsum(x, 0), 0, -1, 1), sum(exact));
  }
}

TEST(Reduce, RankZeroAndDimensions) {
  const Tensor x = Array::full({}, 3, DType::f64);
  for (int dim : {0, -1}) {
    for (const Tensor& y :
         {sum(x, {dim}), amax(x, {dim}, true), max(x, dim).values, prod(x, dim), cumsum(x, dim),
          cumprod(x, dim), logsumexp(x, {dim}), norm(x, 2, {dim})}) {
      EXPECT_EQ(y.shape(), Shape{});
      EXPECT_EQ(y.item(), 3);
    }
    EXPECT_EQ(argmax(x, dim).item(), 0);
  }
  const Tensor matrix = random_array({2, 3}, 1);
  EXPECT_EQ(argmax(matrix, {}, true).shape(), (Shape{1, 1}));
  EXPECT_EQ(argmax(matrix, -1, true).shape(), (Shape{2, 1}));
  for (const std::vector<int>& dims :
       {std::vector<int>{2}, std::vector<int>{-3}, std::vector<int>{0, -2}}) {
    EXPECT_THROW(sum(matrix, dims), Error);
    EXPECT_THROW(amax(matrix, dims), Error);
    EXPECT_THROW(var(matrix, dims), Error);
    EXPECT_THROW(logsumexp(matrix, dims), Error);
    EXPECT_THROW(norm(matrix, 2, dims), Error);
    EXPECT_THROW(any(matrix, dims), Error);
  }
  EXPECT_THROW(cumsum(matrix, 2), Error);
  EXPECT_THROW(prod(matrix, -3), Error);
  EXPECT_THROW(sum(x, {1}), Error);
  EXPECT_THROW(sum({}), Error);
  EXPECT_THROW(cumprod({}, 0), Error);
  EXPECT_THROW(norm({}), Error);
}

}  // namespace
}  // namespace lockstep::testing
