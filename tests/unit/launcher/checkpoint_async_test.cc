// Checkpoints that a thread writes while training goes on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <future>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "lockstep/launcher/train/agreement.h"
#include "lockstep/launcher/train/trainer.h"
#include "lockstep/nn/layers.h"
#include "lockstep/runtime/files/mapped_file.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "support/faulty_file_system.h"
#include "support/temporary_directory.h"
#include "support/thread_ranks.h"

namespace lockstep::train {
namespace {

namespace fs = std::filesystem;
using lockstep::testing::FaultyFileSystem;
using lockstep::testing::run_ranks;
using lockstep::testing::TemporaryDirectory;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

// What every file holds, by its name below the folder.
std::map<std::string, std::string> contents(const fs::path& folder) {
  std::map<std::string, std::string> result;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    result[entry.path().lexically_relative(folder)] = files::read_text_file(entry.path()).value();
  }
  return result;
}

// Of every rank alike, and more than one piece of a file.
std::vector<NamedArray> state_of(double first) {
  return {{"model/w", Array::full({3, 400'001}, first, DType::f32)},
          {"model/count", Array::full({1}, first, DType::i64)},
          {"optimizer/exp_avg/w", Array::full({3, 400'001}, -first, DType::f32)}};
}

// Holds back what touches a file until it is let go.
class Gate {
 public:
  void hold_back(const std::string& operation) {
    if (operation.find(".safetensors") != std::string::npos) open_.wait();
  }
  void open() { opened_.set_value(); }

 private:
  std::promise<void> opened_;
  std::shared_future<void> open_ = opened_.get_future().share();
};

TEST(CheckpointAsync, HoldsTheStateOfItsStepWhateverHappensToItMeanwhile) {
  for (const int ranks : {1, 3}) {
    TemporaryDirectory expected, found;
    run_ranks(ranks, [&](Communicator& communicator) {
      Checkpointer(files::posix_file_system(), communicator, expected.path(), 3)
          .save(7, state_of(1), R"({"a":1})");
    });
    FaultyFileSystem gated;
    Gate gate;
    gated.set_before([&](const std::string& operation) { gate.hold_back(operation); });
    run_ranks(ranks, [&](Communicator& communicator) {
      Checkpointer checkpointer(gated, communicator, found.path(), 3);
      const std::vector<NamedArray> state = state_of(1);
      checkpointer.begin(7, state, R"({"a":1})");
      for (const NamedArray& entry : state) kernels::fill(entry.values, 50);
      EXPECT_TRUE(checkpointer.is_pending());
      EXPECT_FALSE(checkpointer.is_written());
      EXPECT_FALSE(fs::exists(found / "step-00000007"));
      communicator.barrier({.what = "all have looked"}).wait();
      if (communicator.rank() == 0) gate.open();
      while (!checkpointer.is_written()) std::this_thread::yield();
      EXPECT_EQ(checkpointer.failure(), "");
      communicator.barrier({.what = "all are written"}).wait();
      EXPECT_FALSE(fs::exists(found / "step-00000007"));
      communicator.barrier({.what = "all have looked again"}).wait();
      checkpointer.commit();
      EXPECT_FALSE(checkpointer.is_pending());
      EXPECT_FALSE(checkpointer.is_written());
    });
    EXPECT_TRUE(contents(found.path()) == contents(expected.path())) << ranks;
  }
}

TEST(CheckpointAsync, TheCopyIsKeptForTheNext) {
  TemporaryDirectory directory;
  FaultyFileSystem unflushed;
  const auto communicator = make_single_communicator();
  Checkpointer checkpointer(unflushed, *communicator, directory.path(), 1);
  const std::vector<NamedArray> state = state_of(1);
  const Backend& backend = backend_of(Device());
  const int64_t before = backend.statistics().in_use_bytes;
  int64_t kept = 0;
  for (int64_t step = 1; step <= 3; ++step) {
    checkpointer.begin(step, state, "{}");
    checkpointer.commit();
    // It counts as memory in use.
    const int64_t more = backend.statistics().in_use_bytes - before;
    EXPECT_GE(more, 2 * 3 * 400'001 * 4);
    if (step > 1) {
      EXPECT_EQ(more, kept);
    }
    kept = more;
  }
}

// Whatever fails in the thread, in the beginning or at the end: all ranks are told, and what was
// there stays as it was.
TEST(CheckpointAsync, FailureAtAnyOperationDamagesNothing) {
  using Fault = FaultyFileSystem::Fault;
  for (const Fault fault : {Fault::one_operation, Fault::crash, Fault::disk_full}) {
    for (int operation = 0;; ++operation) {
      TemporaryDirectory directory;
      FaultyFileSystem faulty(fault, operation), sound;
      std::map<std::string, std::string> before;
      std::atomic<int> failures = 0;
      run_ranks(2, [&](Communicator& communicator) {
        Checkpointer(sound, communicator, directory.path(), 3).save(1, state_of(1), "{}");
        if (communicator.rank() == 0) before = contents(directory.path());
        communicator.barrier({.what = "looked"}).wait();
        Checkpointer checkpointer(faulty, communicator, directory.path(), 3);
        try {
          checkpointer.begin(2, state_of(2), "{}");
          checkpointer.commit();
        } catch (const AgreedFailure& failure) {
          EXPECT_THAT(failure.what(), HasSubstr("injected: cannot write"));
          ++failures;
        }
        EXPECT_FALSE(checkpointer.is_pending());
      });
      if (faulty.operations() <= operation) {
        EXPECT_EQ(failures, 0);
        break;
      }
      EXPECT_TRUE(failures == 0 || failures == 2) << operation;
      std::map<std::string, std::string> after;
      for (auto& [name, text] : contents(directory.path())) {
        if (name.starts_with("step-00000001")) after[name] = text;
      }
      EXPECT_TRUE(after == before) << operation;
      const auto latest = files::latest_checkpoint(directory.path());
      ASSERT_TRUE(latest.ok());
      EXPECT_TRUE(files::Checkpoint::verify(*latest).value().empty()) << operation;
      if (failures == 0) {
        EXPECT_EQ(latest->filename(), "step-00000002");
      }
      // The next one clears up.
      run_ranks(2, [&](Communicator& communicator) {
        Checkpointer checkpointer(sound, communicator, directory.path(), 1);
        checkpointer.begin(3, state_of(3), "{}");
        checkpointer.commit();
      });
      EXPECT_EQ(sound.list(directory.path()).value(), std::vector<std::string>{"step-00000003"});
    }
  }
}

// By the same ranks: what is left of it is in nobody's way.
TEST(CheckpointAsync, AfterOneThatFailedTheNextIsSaved) {
  for (int operation = 0;; ++operation) {
    TemporaryDirectory directory;
    FaultyFileSystem faulty(FaultyFileSystem::Fault::one_operation, operation);
    std::atomic<int> failures = 0;
    run_ranks(2, [&](Communicator& communicator) {
      Checkpointer checkpointer(faulty, communicator, directory.path(), 1);
      try {
        checkpointer.begin(1, state_of(1), "{}");
        checkpointer.commit();
        return;
      } catch (const AgreedFailure&) {
        ++failures;
      }
      EXPECT_FALSE(checkpointer.is_pending() || checkpointer.is_written());
      EXPECT_EQ(checkpointer.failure(), "");
      checkpointer.begin(2, state_of(2), "{}");
      checkpointer.give_up();
      checkpointer.save(3, state_of(3), "{}");
    });
    if (faulty.operations() <= operation) break;
    if (failures == 0) continue;
    const auto latest = files::latest_checkpoint(directory.path());
    ASSERT_TRUE(latest.ok()) << operation;
    EXPECT_EQ(latest->filename(), "step-00000003");
    EXPECT_TRUE(files::Checkpoint::verify(*latest).value().empty()) << operation;
  }
}

TEST(CheckpointAsync, WhatIsBeingWrittenIsGivenUpWithItsWriter) {
  TemporaryDirectory directory;
  FaultyFileSystem gated;
  Gate gate;
  gated.set_before([&](const std::string& operation) { gate.hold_back(operation); });
  const auto communicator = make_single_communicator();
  std::thread opener;
  {
    Checkpointer checkpointer(gated, *communicator, directory.path(), 1);
    checkpointer.begin(1, state_of(1), "{}");
    opener = std::thread([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      gate.open();
    });
  }
  opener.join();
  EXPECT_TRUE(contents(directory.path()).empty());
  for (const std::string& line : gated.log()) {
    EXPECT_THAT(line, ::testing::Not(HasSubstr("append"))) << line;
  }
}

struct Mlp : nn::Layer<Mlp> {
  nn::Linear hidden{16, 32}, output{32, 1};
  Tensor forward(const Tensor& x) { return output(tanh(hidden(x))); }
  void visit(nn::Visitor& v) override {
    v("hidden", hidden);
    v("output", output);
  }
};

// Fits eight samples; gradients are infinite in step `overflow`.
class Fit : public Task {
 public:
  explicit Fit(int64_t overflow = 0) : overflow_(overflow) {}
  nn::Module& module() override { return model_; }
  int64_t samples() const override { return 8; }
  void load(int64_t first, int64_t) override { step_ = first / 8 + 1; }
  Tensor loss() override {
    const Tensor x = sin(reshape(arange(128), {8, 16}));
    const Tensor loss = mse_loss(model_(x), sum(x, {1}, true));
    if (step_ == overflow_) {
      loss.register_hook([](const Tensor& gradient) { return gradient * double{INFINITY}; });
    }
    return loss;
  }

 private:
  Mlp model_;
  int64_t overflow_;
  int64_t step_ = 0;
};

TrainOptions options_of(const fs::path& run_dir, bool async) {
  TrainOptions options{.steps = 7, .global_batch = 8, .learning_rate = 1e-2};
  options.run_dir = run_dir;
  options.checkpoint_every = "2";
  options.checkpoint_async = async;
  options.keep = 100;
  options.quiet = true;
  return options;
}

void train(const TrainOptions& options, Task& task) {
  const auto communicator = make_single_communicator();
  const World world;
  Trainer({.world = world, .communicator = *communicator, .options = options}, task).run();
}

std::vector<Json> events(const fs::path& run_dir, const char* kind) {
  std::ifstream file(run_dir / "metrics.jsonl");
  std::vector<Json> result;
  for (std::string line; std::getline(file, line);) {
    Json event = Json::parse(line);
    if (event.at("event") == kind) result.push_back(std::move(event));
  }
  return result;
}

TEST(CheckpointAsync, TheTrainersAreThoseItWritesAtOnce) {
  TemporaryDirectory folder;
  for (const bool async : {false, true}) {
    const fs::path run_dir = folder / (async ? "async" : "sync");
    Fit task;
    train(options_of(run_dir, async), task);
    std::vector<int64_t> steps;
    double stalls = 0;
    for (const Json& event : events(run_dir, "checkpoint")) {
      steps.push_back(event.at("step"));
      const double seconds = event.at("seconds"), stall = event.at("stall_seconds");
      EXPECT_GT(stall, 0);
      EXPECT_LE(stall, seconds + 1e-3);
      stalls += stall;
    }
    EXPECT_THAT(steps, ElementsAre(2, 4, 6, 7));
    // What is waited for after the last step has no step that it could be charged to.
    double charged = 0;
    for (const Json& event : events(run_dir, "step")) {
      charged += event.at("time").at("checkpoint").get<double>();
    }
    EXPECT_GT(charged, 0);
    EXPECT_LT(charged, stalls);
  }
  const auto at_once = contents(folder / "sync/checkpoints");
  EXPECT_EQ(at_once.size(), 8u);
  EXPECT_TRUE(contents(folder / "async/checkpoints") == at_once);
}

TEST(CheckpointAsync, ARunThatFailsHasWhatItBegan) {
  TemporaryDirectory folder;
  Fit task(/*overflow=*/5);
  std::string said;
  try {
    train(options_of(folder / "run", true), task);
  } catch (const AgreedFailure& failure) {
    said = failure.what();
  }
  EXPECT_THAT(said, HasSubstr("step 5: the norm of the gradients is not finite"));
  const auto latest = files::latest_checkpoint(folder / "run/checkpoints");
  ASSERT_TRUE(latest.ok()) << latest.status();
  EXPECT_EQ(latest->filename(), "step-00000004");
  EXPECT_EQ(events(folder / "run", "checkpoint").size(), 2u);
}

}  // namespace
}  // namespace lockstep::train
