#include "lockstep/nn/init.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "lockstep/autograd/ops.h"
#include "lockstep/nn/layers/basic.h"

namespace lockstep::nn {
namespace {

std::vector<double> values_of(const Initializer& initializer, const Shape& shape,
                              uint64_t seed = 1) {
  const Array values = Array::empty(shape, DType::f64);
  initializer.fill(values, shape, 0, "weight", seed);
  return values.to_vector<double>();
}

struct Moments {
  double mean, deviation, smallest, largest;
};
Moments moments(const std::vector<double>& values) {
  const double count = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
  double squares = 0;
  for (double v : values) squares += (v - mean) * (v - mean);
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  return {mean, std::sqrt(squares / count), *low, *high};
}

constexpr int64_t kRows = 200, kColumns = 300;
const Shape kMatrix{kRows, kColumns};

void expect_uniform(const Initializer& initializer, double bound) {
  const Moments m = moments(values_of(initializer, kMatrix));
  EXPECT_LE(-bound, m.smallest);
  EXPECT_LE(m.largest, bound);
  EXPECT_NEAR(m.deviation, bound / std::sqrt(3.0), 0.01 * bound);
  EXPECT_NEAR(m.mean, 0, 0.02 * bound);
}

void expect_normal(const Initializer& initializer, double deviation) {
  const Moments m = moments(values_of(initializer, kMatrix));
  EXPECT_NEAR(m.deviation, deviation, 0.01 * deviation);
  EXPECT_NEAR(m.mean, 0, 0.02 * deviation);
  EXPECT_GT(m.largest, 3 * deviation);
}

TEST(Init, FormulasOfTheFans) {
  expect_uniform(init::xavier_uniform(), std::sqrt(6.0 / (kRows + kColumns)));
  expect_normal(init::xavier_normal(2), 2 * std::sqrt(2.0 / (kRows + kColumns)));
  // leaky_relu of slope 0 unless told otherwise.
  expect_uniform(init::kaiming_uniform(), std::sqrt(6.0 / kColumns));
  expect_uniform(init::kaiming_uniform({.a = std::sqrt(5.0)}), std::sqrt(1.0 / kColumns));
  expect_normal(init::kaiming_normal(
                    {.mode = init::FanMode::fan_out, .nonlinearity = init::Nonlinearity::relu}),
                std::sqrt(2.0 / kRows));
  expect_normal(init::kaiming_normal({.nonlinearity = init::Nonlinearity::linear}),
                std::sqrt(1.0 / kColumns));
  EXPECT_THROW(values_of(init::xavier_uniform(), {5}), Error);
}

TEST(Init, FansCountTheReceptiveField) {
  const init::Fans fans = init::calculate_fans({8, 3, 5, 7});
  EXPECT_EQ(fans.in, 3 * 35);
  EXPECT_EQ(fans.out, 8 * 35);
}

TEST(Init, Gains) {
  using init::Nonlinearity;
  EXPECT_EQ(init::calculate_gain(Nonlinearity::linear), 1);
  EXPECT_EQ(init::calculate_gain(Nonlinearity::sigmoid), 1);
  EXPECT_DOUBLE_EQ(init::calculate_gain(Nonlinearity::tanh), 5.0 / 3);
  EXPECT_DOUBLE_EQ(init::calculate_gain(Nonlinearity::relu), std::sqrt(2.0));
  EXPECT_DOUBLE_EQ(init::calculate_gain(Nonlinearity::leaky_relu), std::sqrt(2 / 1.0001));
  EXPECT_DOUBLE_EQ(init::calculate_gain(Nonlinearity::leaky_relu, 1), 1);
  EXPECT_DOUBLE_EQ(init::calculate_gain(Nonlinearity::selu), 0.75);
}

TEST(Init, PlainDistributions) {
  EXPECT_EQ(values_of(init::constant(2.5), {3}), (std::vector<double>{2.5, 2.5, 2.5}));
  EXPECT_EQ(values_of(init::ones(), {2}), (std::vector<double>{1, 1}));
  EXPECT_EQ(values_of(init::eye(), {2, 3}), (std::vector<double>{1, 0, 0, 0, 1, 0}));
  EXPECT_THROW(values_of(init::eye(), {4}), Error);
  const Moments uniform = moments(values_of(init::uniform(2, 5), kMatrix));
  EXPECT_GE(uniform.smallest, 2);
  EXPECT_LT(uniform.largest, 5);
  EXPECT_NEAR(uniform.mean, 3.5, 0.02);
  const Moments normal = moments(values_of(init::normal(3, 0.5), kMatrix));
  EXPECT_NEAR(normal.mean, 3, 0.01);
  EXPECT_NEAR(normal.deviation, 0.5, 0.01);
}

TEST(Init, TruncatedNormalIsTheCutDistribution) {
  const Moments m = moments(values_of(init::trunc_normal(), kMatrix));
  EXPECT_GE(m.smallest, -2);
  EXPECT_LE(m.largest, 2);
  EXPECT_GT(m.largest, 1.99);
  EXPECT_NEAR(m.mean, 0, 0.01);
  EXPECT_NEAR(m.deviation, 0.8796, 0.005);  // of the standard normal cut at ±2
  // One side only: the mean of a standard normal above 1 is phi(1) / (1 - Phi(1)).
  const Moments tail = moments(values_of(init::trunc_normal(0, 1, 1, 9), kMatrix));
  EXPECT_GE(tail.smallest, 1);
  EXPECT_NEAR(tail.mean, 1.5251, 0.01);
  EXPECT_THROW(init::trunc_normal(0, 1, 2, 1), Error);
}

// QQᵀ, or QᵀQ of a tall one.
void expect_orthogonal(const Shape& shape, double gain) {
  const auto q = values_of(init::orthogonal(gain), shape);
  const int64_t rows = shape[0], columns = shape.elements() / rows;
  const Tensor matrix(Array::from(q, {rows, columns}));
  const Tensor product =
      rows <= columns ? matmul(matrix, matrix.mT()) : matmul(matrix.mT(), matrix);
  const auto values = product.to_vector<double>();
  const int64_t size = std::min(rows, columns);
  for (int64_t i = 0; i < size * size; ++i) {
    ASSERT_NEAR(values[i], i / size == i % size ? gain * gain : 0, 1e-10);
  }
}

TEST(Init, OrthogonalOfEveryShape) {
  expect_orthogonal({50, 50}, 1);
  expect_orthogonal({20, 70}, 1.5);
  expect_orthogonal({70, 20}, 2);
  expect_orthogonal({8, 3, 2, 2}, 1);
  EXPECT_THROW(values_of(init::orthogonal(), {5}), Error);
}

TEST(Init, ASliceIsWhatTheWholeHasThere) {
  const Shape shape{12, 20};
  for (const Initializer& initializer :
       {init::normal(), init::uniform(), init::trunc_normal(), init::orthogonal(),
        init::kaiming_uniform(), Initializer::normal(1).with_zeros(60, 30)}) {
    const std::vector<double> whole = values_of(initializer, shape);
    const Array slice = Array::empty({37}, DType::f64);
    initializer.fill(slice, shape, 53, "weight", 1);
    const auto part = slice.to_vector<double>();
    EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + 53));
  }
  EXPECT_THROW(init::normal().fill(Array::empty({8}, DType::f64), {10}, 3, "weight", 1), Error);
}

TEST(Init, AppliesAtConstructionAndToWhatIsPlaced) {
  Linear layer(6, 6, {.weight_initializer = init::orthogonal()});
  layer.bias.set_initializer(init::constant(3));
  layer.place({.dtype = DType::f64});
  EXPECT_EQ(layer.bias.tensor().to_vector<double>()[5], 3);
  EXPECT_THROW(layer.bias.set_initializer(init::zeros()), Error);
  const auto before = layer.weight.tensor().to_vector<double>();
  init::apply(init::xavier_normal(), layer.weight, "weight", 7);
  const auto after = layer.weight.tensor().to_vector<double>();
  EXPECT_NE(before, after);
  EXPECT_EQ(after, values_of(init::xavier_normal(), {6, 6}, 7));
  init::apply(init::xavier_normal(), layer.weight, "another", 7);
  EXPECT_NE(layer.weight.tensor().to_vector<double>(), after);
  Linear unplaced(2, 2);
  EXPECT_THROW(init::apply(init::zeros(), unplaced.weight), Error);
}

}  // namespace
}  // namespace lockstep::nn
