#include <gtest/gtest.h>

#include <cmath>

#include "optimizer_testing.h"

namespace lockstep::optim {
namespace {

double sign(double x) { return x > 0 ? 1 : x < 0 ? -1 : 0; }

// Algorithm 2 of Chen et al. 2023.
TEST(Lion, FollowsItsPaper) {
  for (bool maximize : {false, true}) {
    Fixture f(true);
    Lion optimizer(f.parameters,
                   {.learning_rate = 0.1, .beta1 = 0.7, .weight_decay = 0.2, .maximize = maximize});
    auto p = f.all_values();
    std::vector<std::vector<double>> m(3, std::vector<double>(6));
    for (int step = 1; step <= 4; ++step) {
      f.give_gradients(step);
      optimizer.step(0.5);
      for (size_t i = 0; i < 3; ++i) {
        const auto g = f.parameters[i].grad().to_vector<double>();
        for (size_t j = 0; j < g.size(); ++j) {
          const double d = (maximize ? -0.5 : 0.5) * g[j];
          const double c = 0.7 * m[i][j] + 0.3 * d;
          p[i][j] -= 0.1 * (sign(c) + 0.2 * p[i][j]);
          m[i][j] = 0.99 * m[i][j] + 0.01 * d;
          EXPECT_NEAR(f.values(i)[j], p[i][j], 1e-13);
        }
      }
    }
  }
}

// Algorithm 2 of You et al. 2020, each parameter with its own trust ratio.
TEST(Lamb, FollowsItsPaper) {
  Fixture f(true);
  kernels::fill(f.parameters[1].tensor().value(), 0);  // no length: a ratio of 1
  Lamb optimizer(
      f.parameters,
      {.learning_rate = 0.1, .beta1 = 0.8, .beta2 = 0.9, .epsilon = 1e-3, .weight_decay = 0.05});
  auto p = f.all_values();
  std::vector<std::vector<double>> m(3, std::vector<double>(6)), v = m;
  for (int step = 1; step <= 3; ++step) {
    f.give_gradients(step);
    optimizer.step();
    for (size_t i = 0; i < 3; ++i) {
      const auto g = f.parameters[i].grad().to_vector<double>();
      std::vector<double> u(g.size());
      double own = 0, length = 0;
      for (size_t j = 0; j < g.size(); ++j) {
        m[i][j] = 0.8 * m[i][j] + 0.2 * g[j];
        v[i][j] = 0.9 * v[i][j] + 0.1 * g[j] * g[j];
        const double mean = m[i][j] / (1 - std::pow(0.8, step));
        const double square = v[i][j] / (1 - std::pow(0.9, step));
        u[j] = mean / (std::sqrt(square) + 1e-3) + 0.05 * p[i][j];
        own += p[i][j] * p[i][j];
        length += u[j] * u[j];
      }
      const double trust = own > 0 ? std::sqrt(own / length) : 1;
      for (size_t j = 0; j < g.size(); ++j) {
        p[i][j] -= 0.1 * trust * u[j];
        EXPECT_NEAR(f.values(i)[j], p[i][j], 1e-12) << "step " << step;
      }
    }
  }
}

// The rectification only begins when the averaging window is longer than 5 steps.
TEST(RAdam, IsMomentumAloneAtFirst) {
  Fixture f(true);
  RAdam optimizer(f.parameters, {.learning_rate = 0.1});
  const auto before = f.values(0);
  f.give_gradients(1);
  optimizer.step();
  const auto g = f.parameters[0].grad().to_vector<double>();
  for (size_t j = 0; j < g.size(); ++j) EXPECT_NEAR(f.values(0)[j], before[j] - 0.1 * g[j], 1e-13);
}

// Newton-Schulz brings all singular values near to 1: the step of a diagonal gradient is diagonal
// and about as long in each direction, however different the gradient is.
TEST(Muon, OrthogonalizesItsStep) {
  for (const Shape& shape : {Shape{2, 3}, Shape{3, 2}}) {
    nn::Parameter parameter(shape, nn::Initializer::zeros());
    parameter.seat(Array::zeros(shape, DType::f64));
    parameter.leaf().seat_gradient(Array::zeros(shape, DType::f64));
    parameter.leaf().set_has_gradient(true);
    const Array& g = parameter.leaf().gradient();
    const int64_t last = shape[1] + 1;  // of the diagonal
    g.data<double>()[0] = 3;
    g.data<double>()[last] = -0.3;
    Muon optimizer({parameter}, {.learning_rate = 1});
    optimizer.step();
    const auto p = parameter.tensor().to_vector<double>();
    const double adjusted = shape[0] > shape[1] ? std::sqrt(1.5) : 1;
    for (size_t i = 0; i < p.size(); ++i) {
      const double expected = i == 0 ? -1 : i == static_cast<size_t>(last) ? 1 : 0;
      EXPECT_NEAR(p[i] / adjusted, expected, 0.35) << shape.to_string() << " " << i;
    }
  }
}

}  // namespace
}  // namespace lockstep::optim
