// A small training job in which one rank goes wrong, as --fault says: what fault_test.py starts.
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <string>
#include <thread>
#include <utility>

#include "lockstep/launcher/flags/flags.h"
#include "lockstep/launcher/train/program.h"
#include "lockstep/nn/layers.h"
#include "lockstep/nn/optim.h"
#include "lockstep/runtime/context.h"

namespace {

using namespace lockstep;
using std::chrono::milliseconds;

constexpr milliseconds kPhase{250};  // what each phase of a step takes at least
constexpr int64_t kWidth = 8;
constexpr std::chrono::hours kForEver{1};

struct Options {
  std::string fault = "none";
  int64_t culprit = 2;
  int64_t accomplice = -1;
  int64_t busy = -1;
  int64_t step = 3;
  std::string phase = "forward";
};

struct Model : nn::Layer<Model> {
  explicit Model(int64_t width) : hidden{kWidth, width}, output{width, 1} {}
  Tensor forward(const Tensor& x) { return output(tanh(hidden(x))); }
  void visit(nn::Visitor& v) override {
    v("hidden", hidden);
    v("output", output);
  }
  nn::Linear hidden, output;
};

// Says when it happened, as /proc/uptime counts, and in which process.
void say_moment() {
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  std::printf("fault %lld.%09ld %d\n", static_cast<long long>(now.tv_sec), now.tv_nsec, getpid());
  std::fflush(stdout);
}

// Has no use for the ranks' agreement on collectives.
void call_wrongly(Communicator& communicator, const std::string& fault, bool culprit) {
  const auto reduce = [&](int64_t elements) {
    const Array values = Array::zeros({elements}, DType::f32, communicator.device());
    communicator.all_reduce(values, ReduceOp::sum, {.what = "extra"}).wait();
  };
  if (fault == "shape") return reduce(culprit ? 7 : 5);
  if (culprit) communicator.barrier({.what = "extra"}).wait();
  reduce(5);
  if (!culprit) communicator.barrier({.what = "extra"}).wait();
}

void go_wrong(const std::string& fault) {
  if (fault == "kill") raise(SIGKILL);
  if (fault == "stop") raise(SIGSTOP);
  if (fault == "exit") std::exit(3);
  if (fault == "throw") fail({"the file ends early"});
  if (fault == "stuck") std::this_thread::sleep_for(kForEver);
}

class FaultyTask final : public train::Task {
 public:
  FaultyTask(train::Session session, const Options& options)
      : session_(session),
        options_(options),
        model_(options.fault == "model" && is_culprit() ? kWidth + 1 : kWidth) {}

  nn::Module& module() override { return model_; }
  int64_t samples() const override { return 1 << 20; }
  void load(int64_t, int64_t count) override {
    pass("data");
    inputs_ = Array::full({count, kWidth}, 0.5, DType::f32, context().device);
  }
  Tensor loss() override {
    pass("forward");
    const Tensor result = mean(model_(inputs_).to(DType::f32));
    if (!module().training()) return result;
    result.register_hook([this](const Tensor&) { pass("backward"); });
    if (options_.fault == "overflow" && is_culprit() && is_step()) {
      result.register_hook([](const Tensor& gradient) { return gradient * double{INFINITY}; });
    }
    return result;
  }
  int64_t validation_samples() const override { return 64; }
  void load_validation(int64_t, int64_t count) override {
    if (options_.fault == "validation" && is_culprit() && !std::exchange(was_slow_, true)) {
      say_moment();
      std::this_thread::sleep_for(3 * session_.options.timeout);
    }
    inputs_ = Array::full({count, kWidth}, 0.5, DType::f32, context().device);
  }

 private:
  bool is_culprit() const {
    return session_.world.rank == options_.culprit || session_.world.rank == options_.accomplice;
  }

  bool is_step() const { return session_.communicator.activity().now().step == options_.step; }

  // The middle of a phase.
  void pass(const std::string& phase) {
    if (!module().training()) return;
    std::this_thread::sleep_for(kPhase);
    if (!is_step() || phase != options_.phase) return;
    if (session_.world.rank == options_.busy) std::this_thread::sleep_for(kForEver);
    if (options_.fault == "overflow") return;
    if (is_culprit() && options_.fault != "none") say_moment();
    if (options_.fault == "shape" || options_.fault == "order") {
      call_wrongly(session_.communicator, options_.fault, is_culprit());
    }
    if (is_culprit()) go_wrong(options_.fault);
  }

  train::Session session_;
  const Options& options_;
  Model model_;
  Array inputs_;
  bool was_slow_ = false;
};

// Steps by hand, whose communication hook throws on one rank. "caught": which takes part in the
// rest of the step all the same, as the trainer does.
int run_with_hook(train::Session session, const Options& options) {
  Model model(kWidth);
  Activity& activity = session.communicator.activity();
  const bool culprit = session.world.rank == options.culprit;
  bool has_failed = false;
  const auto hook = [&](const nn::GradientBucket& bucket) {
    if (culprit && activity.now().step == options.step && !std::exchange(has_failed, true)) {
      say_moment();
      fail({"the hook is broken"});
    }
    return nn::mean_of_bucket(bucket);
  };
  nn::DistributedDataParallel ddp(
      model, session.communicator,
      {.bucket_sizes = {.first_mb = 1e-5, .other_mb = 1e-5}, .hook = hook});
  optim::SGD optimizer(model.parameters(), {.learning_rate = 0.1});
  for (int64_t step = 1; step <= session.options.steps; ++step) {
    activity.set_step(step);
    optimizer.zero_grad();
    nn::StepReport report;
    try {
      const Activity::Phase phase(session.communicator.activity(), "backward");
      mean(model(Array::full({4, kWidth}, 0.5, DType::f32, context().device))).backward();
    } catch (const std::exception& failure) {
      if (options.fault != "hook-caught") throw;
      report.failed = 1;
    }
    const Activity::Phase phase(session.communicator.activity(), "reduction");
    LOCKSTEP_CHECK(ddp.finish(report).failed == 0, "a rank has failed");
    optimizer.step();
  }
  return 0;
}

int run(train::Session session, const Options& options) {
  if (options.fault.starts_with("hook")) return run_with_hook(session, options);
  if (options.fault == "model" && session.world.rank == options.culprit) say_moment();
  FaultyTask task(session, options);
  train::Trainer trainer(session, task);
  return train::exit_code(trainer.run());
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  train::Program program{.name = "fault_ranks", .summary = "Trains until one rank goes wrong."};
  program.options.steps = 5;
  program.options.quiet = true;
  program.add_flags = [&](flags::Command& command) {
    command.group("Fault");
    command.add({.name = "--fault",
                 .help = "what goes wrong",
                 .choices = {"none", "kill", "stop", "exit", "throw", "stuck", "shape", "order",
                             "model", "validation", "hook", "hook-caught", "overflow"}},
                options.fault);
    command.add({.name = "--culprit", .help = "on which rank"}, options.culprit);
    command.add({.name = "--accomplice", .help = "a rank that goes wrong as well"},
                options.accomplice);
    command.add({.name = "--busy", .help = "a rank that computes for ever when it happens"},
                options.busy);
    command.add({.name = "--fault-step", .help = "in which step"}, options.step);
    command.add({.name = "--fault-phase",
                 .help = "in which phase of it",
                 .choices = {"data", "forward", "backward"}},
                options.phase);
  };
  program.body = [&](train::Session session) { return run(session, options); };
  return program.run(argc, argv);
}
