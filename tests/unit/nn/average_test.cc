#include "lockstep/nn/optim/average.h"

#include <gtest/gtest.h>

#include "lockstep/runtime/error.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "support/gradient_check.h"

namespace lockstep::optim {
namespace {

struct Net : nn::Layer<Net> {
  nn::Parameter weight{{2, 2}, nn::Initializer::uniform(1)};
  nn::Buffer mean{{2}, 0.5};
  void visit(nn::Visitor& visitor) override {
    visitor("weight", weight);
    visitor("mean", mean);
  }
};

void set(const Array& array, double value) { kernels::fill(array, value); }
double first(const Array& array) { return array.to_vector<double>()[0]; }

class Averages : public ::testing::TestWithParam<DType> {
 protected:
  Averages() { net.place({.dtype = GetParam()}); }
  void weigh(double weight, double mean) {
    set(net.weight.tensor().value(), weight);
    set(net.mean.array(), mean);
  }
  double weight() const { return first(net.weight.tensor().value()); }
  double mean() const { return first(net.mean.array()); }
  Net net;
};
INSTANTIATE_TEST_SUITE_P(DTypes, Averages, ::testing::Values(DType::f64, DType::f32, DType::bf16));

TEST_P(Averages, FollowTheirFormula) {
  ExponentialMovingAverage average(net, {.decay = 0.75});
  weigh(1, 1);
  average.update();  // the first takes the weights as they are
  weigh(3, 2);
  average.update();
  weigh(-1, 4);
  average.update();
  EXPECT_EQ(average.updates(), 3);
  {
    const auto evaluation = average.evaluation();
    EXPECT_EQ(weight(), 0.75 * (0.75 * 1 + 0.25 * 3) + 0.25 * -1);
    EXPECT_EQ(mean(), 4) << "copied";
  }
  EXPECT_EQ(weight(), -1);
  EXPECT_EQ(mean(), 4);
}

TEST_P(Averages, OfBuffers) {
  ExponentialMovingAverage average(net, {.decay = 0.75, .average_buffers = true});
  weigh(1, 1);
  average.update();
  weigh(1, 3);
  average.update();
  const auto evaluation = average.evaluation();
  EXPECT_EQ(mean(), 1.5);
}

// With a decay near 1 a step is less than a 16-bit average could hold.
TEST_P(Averages, MoveBySmallSteps) {
  ExponentialMovingAverage average(net, {.decay = 0.999});
  weigh(1, 1);
  average.update();
  weigh(2, 1);
  for (int i = 0; i < 1000; ++i) average.update();
  average.swap_in();
  EXPECT_NEAR(weight(), 2 - std::pow(0.999, 1000), GetParam() == DType::bf16 ? 1e-2 : 1e-4);
  average.swap_out();
}

TEST_P(Averages, GoOnFromTheirSavedState) {
  ExponentialMovingAverage straight(net, {.decay = 0.9});
  weigh(1, 1);
  straight.update();
  weigh(2, 3);
  straight.update();
  ExponentialMovingAverage resumed(net, {.decay = 0.9});
  resumed.load_state(straight.state());
  EXPECT_EQ(resumed.updates(), 2);
  weigh(5, 4);
  straight.update();
  resumed.update();
  const auto expected = straight.state(), found = resumed.state();
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].name, "weight");
  EXPECT_EQ(found[1].name, "mean");
  EXPECT_EQ(found[2].name, "n_averaged");
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].values.to_vector<double>(), expected[i].values.to_vector<double>());
  }
  auto wrong = straight.state();
  wrong[0].name = "bias";
  EXPECT_THROW(resumed.load_state(wrong), Error);
}

TEST_P(Averages, AreSwappedInTurns) {
  ExponentialMovingAverage average(net);
  EXPECT_THROW(average.swap_out(), Error);
  average.swap_in();
  EXPECT_THROW(average.swap_in(), Error);
  EXPECT_THROW(average.update(), Error);
  average.swap_out();
  EXPECT_THROW(ExponentialMovingAverage(net, {.decay = 2}), Error);
}

}  // namespace
}  // namespace lockstep::optim
