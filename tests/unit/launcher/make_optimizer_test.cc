#include "lockstep/launcher/train/make_optimizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/launcher/flags/flags.h"
#include "lockstep/launcher/train/trainer.h"
#include "lockstep/nn/layers.h"
#include "lockstep/nn/optim.h"
#include "support/temporary_directory.h"

namespace lockstep::train {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

struct Mlp : nn::Layer<Mlp> {
  nn::Linear hidden{3, 5}, output{5, 1};
  Tensor forward(const Tensor& x) { return output(tanh(hidden(x))); }
  void visit(nn::Visitor& v) override {
    v("hidden", hidden);
    v("output", output);
  }
};

// Learns the same four samples at each step, and keeps its losses.
class Fit : public Task {
 public:
  nn::Module& module() override { return model_; }
  int64_t samples() const override { return 4; }
  void load(int64_t, int64_t) override {}
  Tensor loss() override {
    const Tensor x = reshape(linspace(-1, 1, 12), {4, 3});
    const Tensor loss = mse_loss(model_(x), sum(x, {1}, true));
    losses.push_back(loss.item());
    return loss;
  }

  std::vector<double> losses;

 private:
  Mlp model_;
};

std::vector<double> train(const TrainOptions& options) {
  const auto communicator = make_single_communicator();
  const World world;
  Fit task;
  Trainer({.world = world, .communicator = *communicator, .options = options}, task).run();
  return task.losses;
}

TEST(MakeOptimizer, EachRuleLearnsAndGoesOnFromACheckpointAsIfItHadNotStopped) {
  for (const std::string& name : optimizer_names()) {
    SCOPED_TRACE(name);
    const testing::TemporaryDirectory folder;
    TrainOptions options{.steps = 8, .global_batch = 4};
    options.learning_rate = name == "adadelta" ? 1 : 1e-2;
    options.optimizer = name;
    options.run_dir = folder / "run";
    options.checkpoint_every = "4";
    options.quiet = true;
    const std::vector<double> losses = train(options);
    ASSERT_EQ(losses.size(), 8);
    EXPECT_LT(losses.back(), losses.front());

    options.resume = options.run_dir / "checkpoints" / "step-00000004";
    options.run_dir = folder / "resumed";
    EXPECT_THAT(train(options), ElementsAreArray(losses.begin() + 4, losses.end()));
  }
}

TrainOptions with(const char* name) {
  TrainOptions options{.learning_rate = 0.5, .optimizer = name};
  options.beta1 = 0.8;
  options.beta2 = 0.7;
  options.epsilon = 1e-3;
  options.momentum = 0.6;
  options.weight_decay = 0.2;
  return options;
}

// The options of the group that decays.
template <class O>
typename O::Options options_of(const char* name) {
  Mlp model;
  model.place({});
  const auto optimizer = make_optimizer(with(name), model.parameters());
  const O& rule = dynamic_cast<const O&>(*optimizer);
  EXPECT_EQ(rule.groups(), 2);
  EXPECT_EQ(rule.options(0).weight_decay, 0.2);
  EXPECT_EQ(rule.options(1).weight_decay, 0);
  EXPECT_EQ(rule.learning_rate(), 0.5);
  return rule.options(0);
}

TEST(MakeOptimizer, FlagsReachTheRulesThatHaveThem) {
  EXPECT_EQ(options_of<optim::SGD>("sgd").momentum, 0.6);
  const auto adam = options_of<optim::AdamW>("adamw");
  EXPECT_THAT((std::vector{adam.beta1, adam.beta2, adam.epsilon}), ElementsAre(0.8, 0.7, 1e-3));
  const auto rmsprop = options_of<optim::RMSprop>("rmsprop");
  EXPECT_THAT((std::vector{rmsprop.alpha, rmsprop.epsilon, rmsprop.momentum}),
              ElementsAre(0.7, 1e-3, 0.6));
  EXPECT_EQ(options_of<optim::Adadelta>("adadelta").rho, 0.7);
  EXPECT_EQ(options_of<optim::Lion>("lion").beta2, 0.7);
  EXPECT_EQ(options_of<optim::Lamb>("lamb").epsilon, 1e-3);
}

TEST(MakeOptimizer, AnotherNameIsRefusedWithTheChoices) {
  try {
    make_optimizer(with("lbfgs"), {});
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), HasSubstr("--optimizer lbfgs: expected one of sgd, adam, adamw, "));
  }
  flags::Command command("train", "");
  TrainOptions options;
  options.add_to(command);
  const std::vector<std::string> arguments{"--optimizer", "lamp"};
  EXPECT_THAT(command.parse(arguments).error, HasSubstr("the nearest is lamb"));
}

}  // namespace
}  // namespace lockstep::train
