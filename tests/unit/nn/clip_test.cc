#include <gtest/gtest.h>

#include <cmath>

#include "lockstep/autograd/ops.h"
#include "optimizer_testing.h"

namespace lockstep::optim {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::vector<double> all_gradients(const Fixture& fixture) {
  std::vector<double> result;
  for (const nn::Parameter& parameter : fixture.parameters) {
    if (!parameter.grad()) continue;
    for (double g : parameter.grad().to_vector<double>()) result.push_back(g);
  }
  return result;
}

TEST(Clipping, NormsOverAllGradients) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    Fixture fixture(true, dtype);
    fixture.give_gradients(1);
    fixture.parameters[1].leaf().zero_grad();  // not counted
    double sum = 0, squares = 0, cubes = 0, most = 0;
    for (double g : all_gradients(fixture)) {
      sum += std::abs(g);
      squares += g * g;
      cubes += std::pow(std::abs(g), 3);
      most = std::max(most, std::abs(g));
    }
    const double bound = dtype == DType::f64 ? 1e-13 : 1e-6;
    const auto& parameters = fixture.parameters;
    EXPECT_NEAR(gradient_norm(parameters), std::sqrt(squares), bound);
    EXPECT_NEAR(gradient_norm(parameters, 1), sum, bound);
    EXPECT_NEAR(gradient_norm(parameters, 3), std::cbrt(cubes), bound);
    EXPECT_EQ(gradient_norm(parameters, kInfinity), most);
    EXPECT_THROW(gradient_norm(parameters, 0), Error);
  }
}

TEST(Clipping, Factor) {
  EXPECT_DOUBLE_EQ(clip_factor(4, 1), 1 / (4 + 1e-6));
  EXPECT_DOUBLE_EQ(clip_factor(0.5, 1), 1);
  EXPECT_DOUBLE_EQ(clip_factor(4, 0), 1);
  EXPECT_EQ(clip_factor(kInfinity, 1), 0);
  EXPECT_TRUE(std::isnan(clip_factor(NAN, 1)));
}

TEST(Clipping, ScalesGradientsToTheNorm) {
  for (double norm_type : {1.0, 2.0, 3.0, kInfinity}) {
    Fixture fixture(true);
    fixture.give_gradients(1);
    const auto before = all_gradients(fixture);
    const double norm = gradient_norm(fixture.parameters, norm_type);
    const double most = norm / 2;
    EXPECT_EQ(clip_grad_norm(fixture.parameters, most, {.norm_type = norm_type}), norm);
    const auto after = all_gradients(fixture);
    for (size_t i = 0; i < before.size(); ++i) {
      EXPECT_NEAR(after[i], before[i] * most / (norm + 1e-6), 1e-14);
    }
    clip_grad_norm(fixture.parameters, 100, {.norm_type = norm_type});
    EXPECT_EQ(all_gradients(fixture), after) << "they are short enough";
    clip_grad_norm(fixture.parameters, 0, {.norm_type = norm_type});
    EXPECT_EQ(gradient_norm(fixture.parameters), 0);
  }
}

TEST(Clipping, NormsThatAreNotFiniteGoOn) {
  for (double norm_type : {1.0, 2.0, kInfinity}) {
    for (double bad : {kInfinity, std::nan("")}) {
      Fixture fixture(true);
      fixture.give_gradients(1);
      double& first = fixture.parameters[0].leaf().gradient().data<double>()[0];
      first = bad;
      const auto& parameters = fixture.parameters;
      const auto before = all_gradients(fixture);
      EXPECT_THROW(
          clip_grad_norm(parameters, 1, {.norm_type = norm_type, .error_if_nonfinite = true}),
          Error);
      EXPECT_EQ(all_gradients(fixture)[1], before[1]) << "an error leaves them as they are";
      EXPECT_FALSE(std::isfinite(clip_grad_norm(parameters, 1, {.norm_type = norm_type})));
      EXPECT_TRUE(std::isnan(first));
      const double other = all_gradients(fixture)[1];
      EXPECT_TRUE(std::isnan(bad) ? std::isnan(other) : other == 0);
    }
  }
}

TEST(Clipping, Values) {
  Fixture fixture(true);
  fixture.give_gradients(1);
  fixture.parameters[0].leaf().gradient().data<double>()[1] = NAN;
  const auto before = all_gradients(fixture);
  clip_grad_value(fixture.parameters, 0.25);
  const auto after = all_gradients(fixture);
  for (size_t i = 0; i < before.size(); ++i) {
    if (std::isnan(before[i])) {
      EXPECT_TRUE(std::isnan(after[i]));
    } else {
      EXPECT_EQ(after[i], std::min(std::max(before[i], -0.25), 0.25));
    }
  }
  EXPECT_THROW(clip_grad_value(fixture.parameters, -1), Error);
}

// Of a + b both have one gradient, the same array.
TEST(Clipping, GradientsThatAreSharedAreScaledOnce) {
  std::vector<nn::Parameter> parameters;
  for (int i = 0; i < 2; ++i) {
    parameters.emplace_back(Shape{4}, nn::Initializer::zeros());
    parameters.back().seat(Array::zeros({4}, DType::f64));
  }
  const Tensor seed(Array::full({4}, 2, DType::f64));
  (parameters[0].tensor() + parameters[1].tensor()).backward(seed);
  const double norm = clip_grad_norm(parameters, 1);
  EXPECT_NEAR(norm, std::sqrt(32), 1e-12);
  EXPECT_NEAR(gradient_norm(parameters), 1, 1e-6);
  EXPECT_EQ(seed.to_vector<double>()[0], 2);
}

}  // namespace
}  // namespace lockstep::optim
