#include "lockstep/autograd/ops/creation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "lockstep/autograd/ops.h"

namespace lockstep {
namespace {

void expect(const Tensor& x, DType dtype, const Shape& shape, const std::vector<double>& values) {
  EXPECT_EQ(x.dtype(), dtype);
  EXPECT_EQ(x.shape(), shape) << x.shape().to_string();
  EXPECT_EQ(x.to_vector<double>(), values);
}

TEST(Creation, TensorOfNestedLists) {
  expect(tensor({{1.0, 2.0}, {3.0, 4.0}}), DType::f32, {2, 2}, {1, 2, 3, 4});
  expect(tensor({1, 2, 3}), DType::i64, {3}, {1, 2, 3});
  expect(tensor({true, false}), DType::boolean, {2}, {1, 0});
  expect(tensor({{{1}, {2}}, {{3}, {4}}}), DType::i64, {2, 2, 1}, {1, 2, 3, 4});
  expect(tensor({true, 2}), DType::i64, {2}, {1, 2});
  expect(tensor({1, 2.5}), DType::f32, {2}, {1, 2.5});
  expect(tensor({}), DType::f32, {0}, {});
  expect(tensor(3.5), DType::f32, {}, {3.5});
  expect(tensor(7), DType::i64, {}, {7});
  expect(tensor({1, 2}, {.dtype = DType::f64}), DType::f64, {2}, {1, 2});
  expect(tensor({1.7}, {.dtype = DType::i64}), DType::i64, {1}, {1});
  expect(tensor(std::vector<double>{1.5, 2}), DType::f32, {2}, {1.5, 2});
  expect(tensor(std::vector<int>{4, 5}), DType::i64, {2}, {4, 5});
  expect(tensor(std::vector<bool>{true, false}), DType::boolean, {2}, {1, 0});
  EXPECT_THROW(tensor({{1, 2}, {3}}), Error);
  EXPECT_THROW(tensor({{1, 2}, 3}), Error);
  EXPECT_THROW(tensor({1, 2}, {.requires_grad = true}), Error);
}

TEST(Creation, Fills) {
  expect(zeros({2}), DType::f32, {2}, {0, 0});
  expect(ones({1, 2}, {.dtype = DType::i32}), DType::i32, {1, 2}, {1, 1});
  expect(full({2}, 3), DType::i64, {2}, {3, 3});
  expect(full({2}, true), DType::boolean, {2}, {1, 1});
  expect(full({}, 2.5), DType::f32, {}, {2.5});
  expect(eye(2), DType::f32, {2, 2}, {1, 0, 0, 1});
  expect(eye(2, 3), DType::f32, {2, 3}, {1, 0, 0, 0, 1, 0});
  expect(eye(3, 1), DType::f32, {3, 1}, {1, 0, 0});
  expect(eye(0), DType::f32, {0, 0}, {});
  EXPECT_EQ(empty({2, 0}, {.dtype = DType::f16}).dtype(), DType::f16);
  EXPECT_THROW(eye(-1), Error);
  EXPECT_THROW(zeros({-1}), Error);
  const Tensor x = tensor({{1.5, 2.5}}, {.dtype = DType::f64});
  expect(zeros_like(x), DType::f64, {1, 2}, {0, 0});
  expect(ones_like(x, {.dtype = DType::u8}), DType::u8, {1, 2}, {1, 1});
  expect(full_like(arange(2), 2.5), DType::i64, {2}, {2, 2});
  EXPECT_EQ(randn_like(x).dtype(), DType::f64);
  EXPECT_EQ(empty_like(x).shape(), x.shape());
  EXPECT_THROW(zeros_like(Tensor()), Error);
  const Tensor w = zeros({2}, {.requires_grad = true});
  EXPECT_TRUE(w.requires_grad() && w.is_leaf());
}

TEST(Creation, Ranges) {
  expect(arange(3), DType::i64, {3}, {0, 1, 2});
  expect(arange(5, 0, -2), DType::i64, {3}, {5, 3, 1});
  expect(arange(0, 1, 0.25), DType::f32, {4}, {0, 0.25, 0.5, 0.75});
  expect(arange(3.0), DType::f32, {3}, {0, 1, 2});
  expect(arange(2, 2), DType::i64, {0}, {});
  expect(arange(2, {.dtype = DType::f64}), DType::f64, {2}, {0, 1});
  EXPECT_THROW(arange(0, -1), Error);
  EXPECT_THROW(arange(0, 1, 0), Error);
  EXPECT_THROW(arange(0.0, INFINITY), Error);
  expect(linspace(0, 1, 5), DType::f32, {5}, {0, 0.25, 0.5, 0.75, 1});
  expect(linspace(2, 9, 1), DType::f32, {1}, {2});
  expect(linspace(0, 1, 0), DType::f32, {0}, {});
  expect(linspace(0, 10, 4, {.dtype = DType::i32}), DType::i32, {4}, {0, 3, 6, 10});
  EXPECT_EQ(linspace(0, 0.1, 7, {.dtype = DType::f64}).to_vector<double>().back(), 0.1);
  EXPECT_THROW(linspace(0, 1, -1), Error);
}

TEST(Creation, RandomNumbersFollowTheKey) {
  manual_seed(7);
  const auto first = rand({1000}).to_vector<double>();
  const auto second = rand({1000}).to_vector<double>();
  EXPECT_NE(first, second);
  manual_seed(7);
  EXPECT_EQ(rand({1000}).to_vector<double>(), first);
  EXPECT_EQ(context().random.operation, 1U);
  manual_seed(8);
  EXPECT_NE(rand({1000}).to_vector<double>(), first);
  for (double value : first) EXPECT_TRUE(value >= 0 && value < 1);
  const Tensor normal = randn({10000}, {.dtype = DType::f64});
  EXPECT_NEAR(mean(normal).item(), 0, 0.05);
  EXPECT_NEAR(mean(square(normal)).item(), 1, 0.05);
  EXPECT_THROW(randn({2}, {.dtype = DType::i64}), Error);
}

TEST(Creation, RandomIntegersCoverTheirRange) {
  manual_seed(1);
  const Tensor drawn = randint(-2, 3, {5000});
  EXPECT_EQ(drawn.dtype(), DType::i64);
  std::vector<int> count(5);
  for (int64_t value : drawn.to_vector<int64_t>()) ++count.at(static_cast<size_t>(value + 2));
  for (int each : count) EXPECT_NEAR(each, 1000, 150);
  EXPECT_EQ(randint(1, {3}).to_vector<double>(), (std::vector<double>{0, 0, 0}));
  EXPECT_EQ(randint(0, 9, {2}, {.dtype = DType::f32}).dtype(), DType::f32);
  EXPECT_THROW(randint(0, {2}), Error);
}

TEST(Creation, MembersOfTensor) {
  Tensor x = tensor({1.5});
  EXPECT_EQ(x.item(), 1.5);
  EXPECT_EQ(x.item<int64_t>(), 1);
  EXPECT_EQ(tensor(INT64_MAX).item<int64_t>(), INT64_MAX);
  EXPECT_THROW(tensor({1, 2}).item<int64_t>(), Error);
  EXPECT_EQ(x.to(DType::f64).dtype(), DType::f64);
  EXPECT_EQ(x.to(Device{}).value().storage(), x.value().storage());
  x.requires_grad_();
  EXPECT_TRUE(x.is_leaf() && x.requires_grad());
  const Tensor copy = x.clone();
  EXPECT_NE(copy.value().storage(), x.value().storage());
  Tensor y = x.to(DType::f64) * 3 + copy;
  EXPECT_THROW(y.requires_grad_(), Error);
  y.backward();
  EXPECT_EQ(x.grad().dtype(), DType::f32);
  EXPECT_EQ(x.grad().item(), 4);
  x.requires_grad_(false);
  EXPECT_FALSE(x.requires_grad());
}

}  // namespace
}  // namespace lockstep
