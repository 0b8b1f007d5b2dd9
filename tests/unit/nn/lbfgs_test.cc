#include <gtest/gtest.h>

#include <cmath>

#include "optimizer_testing.h"

namespace lockstep::optim {
namespace {

constexpr auto kWolfe = LBFGSOptions::LineSearch::strong_wolfe;

// (1 - x)^2 + 100 (y - x^2)^2 from (-1.2, 1), x and y parameters of their own.
struct Rosenbrock {
  explicit Rosenbrock(DType dtype = DType::f64, double x = -1.2, double y = 1) {
    for (double value : {x, y}) {
      nn::Parameter parameter({1}, nn::Initializer::zeros());
      parameter.seat(Array::full({1}, value, dtype));
      parameters.push_back(parameter);
    }
  }
  double at(size_t i) const { return parameters[i].tensor().item(); }
  Tensor loss() {
    for (const nn::Parameter& parameter : parameters) parameter.leaf().zero_grad();
    const Tensor &x = parameters[0].tensor(), &y = parameters[1].tensor();
    const Tensor a = 1 - x, b = y - x * x;
    Tensor result = sum(a * a + 100 * b * b);
    result.backward();
    return result;
  }
  LBFGS::Closure closure() {
    return [this] { return loss(); };
  }
  std::vector<nn::Parameter> parameters;
};

// Loss before each step, then x, y and all evaluations after it, recorded from PyTorch 2.15.
struct Recorded {
  double loss, x, y;
  int64_t evaluations;
};
void expect_as_recorded(LBFGSOptions options, const std::vector<Recorded>& recorded) {
  Rosenbrock problem;
  LBFGS optimizer(problem.parameters, options);
  for (const Recorded& expected : recorded) {
    const double loss = optimizer.step(problem.closure()).item();
    // Rounding grows with the number of iterations.
    EXPECT_NEAR(loss, expected.loss, 1e-6);
    EXPECT_NEAR(problem.at(0), expected.x, 1e-6);
    EXPECT_NEAR(problem.at(1), expected.y, 1e-6);
    EXPECT_EQ(optimizer.evaluations(), expected.evaluations);
  }
}

TEST(LBFGS, WithStrongWolfeTakesPyTorchsSteps) {
  expect_as_recorded({.line_search = kWolfe},
                     {{24.199999999999996, 0.38062264334648777, 0.12491013187293636, 25},
                      {0.4234823024380289, 0.9999814210791366, 0.9999619651810989, 44},
                      {4.221457511263308e-10, 0.9999814210791366, 0.9999619651810989, 45}});
}

TEST(LBFGS, WithAShortHistoryTakesPyTorchsSteps) {
  expect_as_recorded({.max_iterations = 4, .history_size = 2, .line_search = kWolfe},
                     {{24.199999999999996, -1.0288795348319695, 1.0655029516848564, 5},
                      {4.121126775765638, -0.888128305847943, 0.7410177514999237, 10},
                      {3.7930742512723468, -0.5125309076136719, 0.21876859574661656, 15}});
}

TEST(LBFGS, WithFixedStepsTakesPyTorchs) {
  expect_as_recorded({.learning_rate = 0.1},
                     {{24.199999999999996, -1.044719587805136, 1.0623773907218077, 20},
                      {4.265336005782761, -1.005598065296723, 1.0268988811473778, 40},
                      {4.0469829156153185, -0.5499521730324247, 0.2825686431134047, 60}});
}

TEST(LBFGS, ConvergesOnRosenbrock) {
  for (DType dtype : {DType::f64, DType::f32}) {
    Rosenbrock problem(dtype);
    LBFGS optimizer(problem.parameters, {.max_iterations = 100, .line_search = kWolfe});
    for (int step = 0; step < 3; ++step) optimizer.step(problem.closure());
    const double bound = dtype == DType::f64 ? 1e-4 : 2e-3;
    EXPECT_NEAR(problem.at(0), 1, bound);
    EXPECT_NEAR(problem.at(1), 1, bound);
  }
}

TEST(LBFGS, MaximizesTheNegative) {
  Rosenbrock problem;
  LBFGS optimizer(problem.parameters,
                  {.max_iterations = 100, .line_search = kWolfe, .maximize = true});
  const auto negative = [&] {
    for (const nn::Parameter& parameter : problem.parameters) parameter.leaf().zero_grad();
    const Tensor &x = problem.parameters[0].tensor(), &y = problem.parameters[1].tensor();
    const Tensor a = 1 - x, b = y - x * x;
    Tensor result = -sum(a * a + 100 * b * b);
    result.backward();
    return result;
  };
  for (int step = 0; step < 3; ++step) optimizer.step(negative);
  EXPECT_NEAR(problem.at(0), 1, 1e-4);
}

TEST(LBFGS, GoesOnFromItsSavedState) {
  for (auto line_search : {kWolfe, LBFGSOptions::LineSearch::none}) {
    const LBFGSOptions options{
        .learning_rate = 0.2, .max_iterations = 5, .line_search = line_search};
    Rosenbrock straight;
    LBFGS first(straight.parameters, options);
    for (int step = 0; step < 2; ++step) first.step(straight.closure());
    const auto saved = first.state();
    Rosenbrock resumed(DType::f64, straight.at(0), straight.at(1));
    LBFGS second(resumed.parameters, options);
    second.load_state(saved);
    for (int step = 0; step < 2; ++step) {
      first.step(straight.closure());
      second.step(resumed.closure());
    }
    EXPECT_EQ(resumed.at(0), straight.at(0));
    EXPECT_EQ(resumed.at(1), straight.at(1));
    EXPECT_EQ(second.evaluations(), first.evaluations());
  }
}

TEST(LBFGS, LeavesFrozenParametersAlone) {
  Rosenbrock problem;
  problem.parameters[0].set_frozen(true);
  LBFGS optimizer(problem.parameters, {.line_search = kWolfe});
  for (int step = 0; step < 3; ++step) optimizer.step(problem.closure());
  EXPECT_EQ(problem.at(0), -1.2);
  EXPECT_NEAR(problem.at(1), 1.44, 1e-6);
}

TEST(LBFGS, NeedsAClosureWithALoss) {
  Rosenbrock problem;
  LBFGS optimizer(problem.parameters);
  problem.loss();
  EXPECT_THROW(static_cast<Optimizer&>(optimizer).step(), Error);
  EXPECT_THROW(optimizer.step([] { return Tensor(); }), Error);
  LBFGS nothing(std::vector<nn::Parameter>{});
  EXPECT_NEAR(nothing.step(problem.closure()).item(), 24.2, 1e-12);
}

}  // namespace
}  // namespace lockstep::optim
