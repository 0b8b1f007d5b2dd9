// --precision of the trainer, on one rank.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "lockstep/launcher/train/agreement.h"
#include "lockstep/launcher/train/trainer.h"
#include "lockstep/nn/layers.h"
#include "support/temporary_directory.h"

namespace lockstep::train {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using Json = nlohmann::json;

struct Mlp : nn::Layer<Mlp> {
  nn::Linear hidden{16, 32}, output{32, 1};
  Tensor forward(const Tensor& x) {
    const Tensor h = hidden(x);
    hidden_dtype = h.dtype();
    return output(tanh(h));
  }
  void visit(nn::Visitor& v) override {
    v("hidden", hidden);
    v("output", output);
  }
  DType hidden_dtype = DType::f32;
};

// Fits eight samples. At the steps `overflows`, counted from 0, gradients are infinite.
class Fit : public Task {
 public:
  explicit Fit(std::set<int> overflows = {}) : overflows_(std::move(overflows)) {}
  nn::Module& module() override { return model_; }
  int64_t samples() const override { return 8; }
  void load(int64_t first, int64_t) override { step_ = static_cast<int>(first / 8); }
  int64_t validation_samples() const override { return 8; }
  void load_validation(int64_t, int64_t) override {}
  Tensor loss() override {
    const Tensor x = sin(reshape(arange(128), {8, 16}));
    // Small enough for the first loss scale.
    const Tensor loss = mse_loss(model_(x), sum(x, {1}, true)) / 64.0;
    dtypes.insert(model_.hidden_dtype);
    if (!model_.training()) return loss;
    losses.push_back(loss.item());
    if (overflows_.contains(step_)) {
      loss.register_hook([](const Tensor& gradient) { return gradient * double{INFINITY}; });
    }
    return loss;
  }

  std::vector<double> losses;
  std::set<DType> dtypes;  // that the first product had

 private:
  Mlp model_;
  std::set<int> overflows_;
  int step_ = 0;
};

TrainOptions options_of(const char* precision, int64_t steps,
                        const testing::TemporaryDirectory& folder) {
  TrainOptions options{.steps = steps, .global_batch = 8, .learning_rate = 1e-2};
  options.precision = precision;
  options.run_dir = folder / "run";
  options.quiet = true;
  return options;
}

void train(const TrainOptions& options, Fit& task) {
  const auto communicator = make_single_communicator();
  const World world;
  Trainer({.world = world, .communicator = *communicator, .options = options}, task).run();
}

std::vector<Json> events(const TrainOptions& options, const char* kind) {
  std::ifstream file(options.run_dir / "metrics.jsonl");
  std::vector<Json> result;
  for (std::string line; std::getline(file, line);) {
    Json event = Json::parse(line);
    if (event.at("event") == kind) result.push_back(std::move(event));
  }
  return result;
}

TEST(Precision, ComputesAndValidatesInItsDtypeAndFollowsF32) {
  std::vector<double> expected;
  for (const auto& [name, dtype] :
       {std::pair("f32", DType::f32), {"bf16", DType::bf16}, {"fp16", DType::f16}}) {
    SCOPED_TRACE(name);
    const testing::TemporaryDirectory folder;
    TrainOptions options = options_of(name, 30, folder);
    options.validation_every = 10;
    Fit task;
    train(options, task);
    EXPECT_EQ(task.dtypes, std::set{dtype});
    EXPECT_EQ(events(options, "validation").size(), 3u);
    EXPECT_LT(task.losses.back(), 0.5 * task.losses.front());
    if (expected.empty()) expected = task.losses;
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(task.losses[i], expected[i], 0.02 * expected[0]);
    }
    if (dtype != DType::f32) {
      EXPECT_NE(task.losses, expected);
    }
  }
}

TEST(Precision, ARunGoesOnAsIfItHadNotStopped) {
  for (const char* precision : {"bf16", "fp16"}) {
    SCOPED_TRACE(precision);
    const testing::TemporaryDirectory folder;
    TrainOptions options = options_of(precision, 12, folder);
    options.checkpoint_every = "6";
    const std::set<int> overflows = {1, 4, 8};
    Fit whole(precision == std::string("fp16") ? overflows : std::set<int>{});
    train(options, whole);
    const auto scales = events(options, "step");

    options.resume = options.run_dir / "checkpoints" / "step-00000006";
    options.run_dir = folder / "resumed";
    Fit rest(precision == std::string("fp16") ? overflows : std::set<int>{});
    train(options, rest);
    EXPECT_THAT(rest.losses, ElementsAreArray(whole.losses.begin() + 6, whole.losses.end()));
    const auto resumed = events(options, "step");
    ASSERT_EQ(resumed.size(), 6u);
    for (size_t i = 0; i < 6; ++i) {
      EXPECT_EQ(resumed[i].value("loss_scale", 0.0), scales[6 + i].value("loss_scale", 0.0));
    }
  }
}

TEST(Precision, AnOverflowInF16SkipsTheStepAndSaysSo) {
  const testing::TemporaryDirectory folder;
  const TrainOptions options = options_of("fp16", 6, folder);
  Fit task({1, 2});
  train(options, task);
  std::vector<double> scales, rates;
  for (const Json& step : events(options, "step")) {
    scales.push_back(step.at("loss_scale"));
    rates.push_back(step.at("learning_rate"));
    const bool skipped = step.at("step") == 2 || step.at("step") == 3;
    EXPECT_EQ(step.at("gradient_norm").is_null(), skipped);
    EXPECT_FALSE(step.at("loss").is_null());
  }
  EXPECT_THAT(scales, ElementsAre(65536, 65536, 32768, 16384, 16384, 16384));
  // The schedule goes on, as in PyTorch's usual loop.
  for (int64_t step = 0; step < 6; ++step) {
    EXPECT_EQ(rates[static_cast<size_t>(step)], learning_rate_at(options, step, 6));
  }
  const auto skipped = events(options, "step_skipped");
  ASSERT_EQ(skipped.size(), 2u);
  EXPECT_EQ(skipped[0].at("step"), 2);
  EXPECT_EQ(skipped[0].at("next_loss_scale"), 32768);
  EXPECT_EQ(skipped[1].at("next_loss_scale"), 16384);
  // Nothing but the skipped steps' samples is missing.
  EXPECT_EQ(task.losses[1], task.losses[2]);
  EXPECT_EQ(task.losses[2], task.losses[3]);
  EXPECT_NE(task.losses[3], task.losses[4]);
}

std::string failure_of(const TrainOptions& options, Fit& task) {
  try {
    train(options, task);
  } catch (const AgreedFailure& failure) {
    return failure.what();
  }
  return "";
}

TEST(Precision, GradientsThatAreNeverFiniteEndTheRun) {
  std::set<int> always;
  for (int step = 0; step < 40; ++step) always.insert(step);
  for (const char* precision : {"f32", "bf16"}) {
    const testing::TemporaryDirectory folder;
    Fit task(always);
    EXPECT_THAT(failure_of(options_of(precision, 40, folder), task),
                HasSubstr("step 1: the norm of the gradients is not finite (loss "));
  }
  const testing::TemporaryDirectory folder;
  Fit task(always);
  EXPECT_THAT(failure_of(options_of("fp16", 40, folder), task),
              HasSubstr("step 30: the norm of the gradients is not finite at any loss scale"));
}

TEST(Precision, ARunMayGoOnInAnother) {
  const testing::TemporaryDirectory folder;
  TrainOptions options = options_of("fp16", 4, folder);
  Fit first;
  train(options, first);
  for (const char* next : {"f32", "bf16", "fp16"}) {
    options.steps += 2;
    options.precision = next;
    Fit task;
    train(options, task);
    EXPECT_EQ(task.losses.size(), 2u) << next;
    EXPECT_LT(task.losses.back(), first.losses.front());
  }
}

}  // namespace
}  // namespace lockstep::train
