#include "lockstep/nn/optim/grad_scaler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "lockstep/autograd/ops.h"
#include "lockstep/nn/optim/clip.h"
#include "lockstep/nn/optim/sgd.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "support/test_data.h"

namespace lockstep::optim {
namespace {

using Json = nlohmann::json;

GradScaler scaler_of(const Json& options) {
  GradScalerOptions o;
  o.init_scale = options.value("init_scale", o.init_scale);
  o.growth_factor = options.value("growth_factor", o.growth_factor);
  o.backoff_factor = options.value("backoff_factor", o.backoff_factor);
  o.growth_interval = options.value("growth_interval", o.growth_interval);
  return GradScaler(o);
}

nn::Parameter vector_of_zeros() {
  nn::Parameter weight(Shape{4}, nn::Initializer::zeros());
  weight.seat(Array::zeros({4}, DType::f32));
  return weight;
}

void replay(const Json& recorded, double rate) {
  GradScaler scaler = scaler_of(recorded.at("options"));
  const nn::Parameter weight = vector_of_zeros();
  SGD optimizer({weight}, {.learning_rate = rate});
  int index = 0;
  for (const Json& step : recorded.at("steps")) {
    const std::string what = recorded.at("name").get<std::string>() + " " + std::to_string(index);
    if (index++ == recorded.at("restart")) {
      const GradScaler::State state = scaler.state();
      scaler = scaler_of(recorded.at("options"));
      scaler.load_state(state);
    }
    optimizer.zero_grad();
    const Array factor = Array::from(step.at("gradient").get<std::vector<float>>(), {4});
    scaler.scale(sum(weight.tensor() * Tensor(factor))).backward();
    if (!step.at("planted").is_null()) {
      const double planted = step.at("planted") == "inf" ? INFINITY : NAN;
      kernels::fill(weight.leaf().gradient().narrow(0, 2, 1), planted);
    }
    const double norm = gradient_norm(optimizer.parameters());
    const double clip = clip_factor(norm / scaler.scale(), recorded.at("max_norm"));
    EXPECT_EQ(scaler.step(optimizer, norm, clip), !step.at("skipped")) << what;
    scaler.update();
    EXPECT_EQ(scaler.scale(), step.at("scale").get<double>()) << what;
    EXPECT_EQ(scaler.state().growth_tracker, step.at("growth_tracker")) << what;
    const auto found = weight.tensor().to_vector<double>();
    const auto expected = step.at("weight").get<std::vector<double>>();
    for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(found[i], expected[i], 1e-6) << what;
  }
}

TEST(GradScaler, FollowsPyTorch) {
  const Json recorded =
      Json::parse(std::ifstream(lockstep::testing::test_data("grad_scaler.json")));
  ASSERT_EQ(recorded.at("cases").size(), 8u);
  for (const Json& each : recorded.at("cases")) replay(each, recorded.at("rate"));
}

TEST(GradScaler, ASkippedStepLeavesTheOptimizerAsItWas) {
  GradScaler scaler;
  const nn::Parameter weight = vector_of_zeros();
  SGD optimizer({weight}, {.learning_rate = 1, .momentum = 0.9});
  weight.leaf().seat_gradient(Array::full({4}, INFINITY, DType::f32));
  weight.leaf().set_has_gradient(true);
  EXPECT_FALSE(scaler.step(optimizer));
  scaler.update();
  EXPECT_EQ(optimizer.steps(), 0);
  for (const Optimizer::State& entry : optimizer.state()) {
    for (double value : entry.values.to_vector<double>()) EXPECT_EQ(value, 0) << entry.name;
  }
  kernels::fill(weight.leaf().gradient(), scaler.scale());
  EXPECT_TRUE(scaler.step(optimizer));
  EXPECT_EQ(optimizer.steps(), 1);
  EXPECT_EQ(weight.tensor().to_vector<double>(), std::vector<double>(4, -1));
}

TEST(GradScaler, OneOverflowOfSeveralOptimizersBacksOff) {
  GradScaler scaler({.init_scale = 8});
  const nn::Parameter a = vector_of_zeros(), b = vector_of_zeros();
  SGD first({a}, {.learning_rate = 1}), second({b}, {.learning_rate = 1});
  EXPECT_FALSE(scaler.step(first, NAN));
  EXPECT_TRUE(scaler.step(second, 1));
  scaler.update();
  EXPECT_EQ(scaler.scale(), 4);
}

TEST(GradScaler, ALossInSixteenBitsDoesNotOverflow) {
  const Tensor loss(Array::full({}, 3, DType::f16));
  EXPECT_EQ(GradScaler().scale(loss).item(), 3 * 65536.0);
}

TEST(GradScaler, Misuse) {
  GradScaler scaler;
  const nn::Parameter weight = vector_of_zeros();
  SGD optimizer({weight}, {.learning_rate = 1});
  EXPECT_THROW(scaler.update(), Error);
  scaler.step(optimizer, 1);
  EXPECT_THROW(scaler.step(optimizer, 1), Error);
  scaler.update();
  EXPECT_NO_THROW(scaler.step(optimizer, 1));
  EXPECT_THROW(GradScaler({.init_scale = 0}), Error);
  EXPECT_THROW(GradScaler({.init_scale = 1e39}), Error);
  EXPECT_THROW(GradScaler({.growth_factor = 1}), Error);
  EXPECT_THROW(GradScaler({.backoff_factor = 1}), Error);
  EXPECT_THROW(GradScaler({.growth_interval = 0}), Error);
  EXPECT_THROW(scaler.load_state({.scale = 0}), Error);
}

}  // namespace
}  // namespace lockstep::optim
