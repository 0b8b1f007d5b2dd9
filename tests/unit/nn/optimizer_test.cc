#include <gtest/gtest.h>

#include <cmath>

#include "lockstep/autograd/ops.h"
#include "optimizer_testing.h"

namespace lockstep::optim {
namespace {

class Layouts : public ::testing::TestWithParam<bool> {};

TEST_P(Layouts, AdamWFollowsItsFormula) {
  Fixture fixture(GetParam());
  const AdamW::Options options{.learning_rate = 0.1, .beta1 = 0.8, .beta2 = 0.9, .epsilon = 1e-6};
  AdamW optimizer(decay_matrices_only(fixture.parameters, 0.05), options);
  std::vector<std::vector<double>> p, m(3, std::vector<double>(6)), v = m;
  for (auto& parameter : fixture.parameters) p.push_back(parameter.tensor().to_vector<double>());
  for (int step = 1; step <= 3; ++step) {
    fixture.give_gradients(step);
    optimizer.step(0.5);
    for (size_t i = 0; i < 3; ++i) {
      const auto g = fixture.parameters[i].grad().to_vector<double>();
      const double decay = fixture.parameters[i].shape().rank() >= 2 ? 0.05 : 0;
      for (size_t j = 0; j < g.size(); ++j) {
        const double d = 0.5 * g[j];
        p[i][j] -= 0.1 * decay * p[i][j];
        m[i][j] = 0.8 * m[i][j] + 0.2 * d;
        v[i][j] = 0.9 * v[i][j] + 0.1 * d * d;
        const double mean = m[i][j] / (1 - std::pow(0.8, step));
        const double deviation = std::sqrt(v[i][j] / (1 - std::pow(0.9, step))) + 1e-6;
        p[i][j] -= 0.1 * mean / deviation;
        EXPECT_NEAR(fixture.parameters[i].tensor().to_vector<double>()[j], p[i][j], 1e-12);
      }
    }
  }
}

TEST_P(Layouts, SgdWithMomentumFollowsItsFormula) {
  Fixture fixture(GetParam());
  SGD optimizer(fixture.parameters, {.learning_rate = 0.1, .momentum = 0.9, .weight_decay = 0.01});
  std::vector<std::vector<double>> p, b(3);
  for (auto& parameter : fixture.parameters) p.push_back(parameter.tensor().to_vector<double>());
  for (int step = 1; step <= 3; ++step) {
    fixture.give_gradients(step);
    optimizer.step();
    for (size_t i = 0; i < 3; ++i) {
      const auto g = fixture.parameters[i].grad().to_vector<double>();
      b[i].resize(g.size());
      for (size_t j = 0; j < g.size(); ++j) {
        const double d = g[j] + 0.01 * p[i][j];
        b[i][j] = step == 1 ? d : 0.9 * b[i][j] + d;
        p[i][j] -= 0.1 * b[i][j];
        EXPECT_NEAR(fixture.parameters[i].tensor().to_vector<double>()[j], p[i][j], 1e-12);
      }
    }
  }
}

TEST_P(Layouts, AParameterWithoutGradientIsLeftAlone) {
  Fixture fixture(GetParam());
  AdamW optimizer(fixture.parameters, {.learning_rate = 0.1});
  fixture.give_gradients(1);
  fixture.parameters[1].leaf().zero_grad();
  const auto before = fixture.parameters[1].tensor().to_vector<double>();
  const auto moved = fixture.parameters[2].tensor().to_vector<double>();
  optimizer.step();
  EXPECT_EQ(fixture.parameters[1].tensor().to_vector<double>(), before);
  EXPECT_NE(fixture.parameters[2].tensor().to_vector<double>(), moved);
}

INSTANTIATE_TEST_SUITE_P(FlatAndAlone, Layouts, ::testing::Bool());

// What lies between two parameters may be a third that belongs to nobody here.
TEST(Optimizer, LeavesNeighboursAloneThatItWasNotGiven) {
  Fixture fixture(true);
  fixture.give_gradients(1);
  SGD optimizer({fixture.parameters[0], fixture.parameters[2]}, {.learning_rate = 0.1});
  const auto before = fixture.parameters[1].tensor().to_vector<double>();
  optimizer.step();
  EXPECT_EQ(fixture.parameters[1].tensor().to_vector<double>(), before);
}

TEST(Optimizer, RefusesGradientsThatAreNotReduced) {
  Fixture fixture(true);
  SGD optimizer(fixture.parameters, {});
  fixture.give_gradients(1);
  fixture.parameters[0].set_reduction_pending(true);
  EXPECT_THROW(optimizer.step(), Error);
  fixture.parameters[0].set_reduction_pending(false);
  optimizer.step();
}

TEST(Optimizer, RefusesAParameterGivenTwice) {
  Fixture fixture(true);
  EXPECT_THROW(SGD({fixture.parameters[0], fixture.parameters[0]}, {}), Error);
}

// The optimizer writes in place: a graph recorded before must notice.
TEST(Optimizer, StepInvalidatesWhatWasSaved) {
  Fixture fixture(true);
  SGD optimizer(fixture.parameters, {});
  const Tensor& w = fixture.parameters[0];
  const Tensor y = sum(w * w);
  fixture.give_gradients(1);
  optimizer.step();
  EXPECT_THROW(y.backward(), Error);
}

}  // namespace
}  // namespace lockstep::optim
