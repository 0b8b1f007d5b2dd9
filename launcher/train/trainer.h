#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/autograd/autocast.h"
#include "lockstep/collectives/activity.h"
#include "lockstep/collectives/world.h"
#include "lockstep/launcher/data/sampler.h"
#include "lockstep/launcher/train/agreement.h"
#include "lockstep/launcher/train/checkpointing.h"
#include "lockstep/launcher/train/metrics.h"
#include "lockstep/launcher/train/options.h"
#include "lockstep/launcher/train/progress.h"
#include "lockstep/launcher/train/run_directory.h"
#include "lockstep/launcher/train/signals.h"
#include "lockstep/launcher/train/timeline.h"
#include "lockstep/nn/captured_passes.h"
#include "lockstep/nn/optim/grad_scaler.h"
#include "lockstep/nn/optim/optimizer.h"
#include "lockstep/nn/parallel/data_parallel.h"
#include "lockstep/runtime/backend.h"

namespace lockstep::train {

// What a training program brings: a model, data and a loss. Samples are named by their position in
// the run, from 0, epoch after epoch: which data that is must not depend on the number of ranks.
class Task {
 public:
  virtual ~Task() = default;

  virtual nn::Module& module() = 0;
  // Called on every rank when the model has memory and no checkpoint is loaded: brings weights from
  // elsewhere (Parameter::assign, or Module::load_state where nothing is sharded) and returns true,
  // or leaves the initial ones and returns false.
  virtual bool initialize() { return false; }

  // Samples of an epoch, and tokens of a sample (0: not a matter of tokens).
  virtual int64_t samples() const = 0;
  virtual int64_t tokens_per_sample() const { return 0; }
  // Whether a step may go on into the next epoch, as in a text that is one long stream. Otherwise
  // an epoch's last step has what is left.
  virtual bool endless() const { return false; }

  // Makes samples [first, first + count) ready for loss(). None (count 0) where the module
  // synchronizes batch norm (nn/parallel/sync_batch_norm.h) or under `--shard parameters`: a rank
  // that has fewer samples than others then runs empty batches, because all take part.
  virtual void load(int64_t first, int64_t count) = 0;
  // The mean loss over the samples loaded; of none, whatever has a gradient: it counts nothing.
  virtual Tensor loss() = 0;

  // Whether every loss() over as many samples does the same operations, on arrays that load() made
  // by Array::from or Tensor::to and on the module: then a GPU may do them by itself
  // (nn/captured_passes.h), and loss() is called for the first few steps only.
  virtual bool is_static() const { return false; }

  virtual int64_t validation_samples() const { return 0; }
  // The same of held-out samples; none under `--shard parameters` alone.
  virtual void load_validation(int64_t first, int64_t count) {
    (void)first;
    (void)count;
  }

  // The program's own flags, JSON objects whose members are named like the flags: equal on all
  // ranks, kept in config.json and in checkpoints. A run goes on only with the same model and the
  // same data; `other` may change.
  struct Identity {
    std::string model = "{}";
    std::string data = "{}";
    std::string other = "{}";
  };
  virtual Identity identity() const { return {}; }
};

// How this process takes part in the job.
struct Session {
  const World& world;
  Communicator& communicator;
  const TrainOptions& options;
};

enum class Outcome { finished, finished_before, stopped };

// The training loop: accumulation, data parallelism, clipping, schedule, metrics, validation,
// checkpoints and resuming, and a stop on request. All calls are collective. Errors that concern
// all ranks are AgreedFailure.
class Trainer {
 public:
  Trainer(Session session, Task& task);

  // From where the run stands to its last step. Nothing that cannot be undone happens in a step
  // before all ranks know that it succeeded.
  Outcome run();
  // Afterwards one rank alone may use the whole model. A collective call.
  void gather_parameters() { ddp_->gather_parameters(); }
  // Steps done so far.
  int64_t step() const { return step_; }

 private:
  using Clock = std::chrono::steady_clock;

  // Of the device that the model is on: the communicator's.
  Backend& backend() const { return backend_of(communicator_.device()); }
  Phase phase(std::string_view name);
  // One that may take long: for a while nobody takes the rank for late.
  Phase long_phase(std::string_view name);
  // A part of a step that is timed: on the device, where there is one.
  Phase timed_phase(std::string_view name, StepTimes& times, double StepTimes::*seconds);
  void make_optimizer();
  void note_precision();
  void load_or_initialize();
  void publish_slices();
  void check_same_run(const std::string& attributes, const std::filesystem::path& checkpoint);
  void begin_writing();
  Outcome train_and_complete();
  Outcome train();
  nn::StepReport one_step();
  nn::StepReport forward_backward(StepTimes& times);
  bool passes_together() const;
  [[noreturn]] void break_off(const std::string& error);
  // Returns the mean loss, of no samples an empty array.
  Array micro_batch(const data::Share& samples, double weight, bool adds, StepTimes& times);
  void make_passes();
  bool may_replay() const;
  void note_recomputation() const;
  void add_losses(const std::vector<Array>& losses, const std::vector<int64_t>& counts,
                  nn::StepReport& mine);
  // The task's loss over what it has loaded, in the run's precision.
  Tensor loss();
  // The optimizer's step, unless a gradient is not finite. Returns their norm before clipping.
  double update(StepTimes& times);
  // What a norm that is not finite means: a step left out, or the end.
  void report_overflow(double loss);
  void report_step(const nn::StepReport& total, double norm, std::optional<double> loss_scale,
                   double seconds, const StepTimes& times);
  void validate();
  // Returns when the checkpoint is durable; `in_background`: when the state is copied, if there is
  // memory for it.
  void save(bool in_background);
  // Waits for the checkpoint that is being written, if any, and makes it durable.
  void complete_checkpoint();
  void give_up_checkpoint();
  void warn(std::string_view what, const AgreedFailure& failure) const;
  void report_checkpoint(int64_t step, Clock::time_point begun, double stall);
  // Metrics are written by rank 0 alone: what goes wrong there rides in the next step's report.
  void write_metrics(const std::function<void()>& write);
  void write_trace();
  std::vector<NamedArray> model_state();
  std::vector<NamedArray> state();
  std::string attributes() const;

  Session session_;
  Task& task_;
  const TrainOptions& options_;
  Communicator& communicator_;
  std::optional<data::BatchPlan> plan_;
  RunDirectory directory_;
  std::optional<Metrics> metrics_;            // rank 0
  std::optional<LowPrecisionCopies> copies_;  // of the parameters, in 16-bit precision
  std::optional<nn::DistributedDataParallel> ddp_;
  std::optional<nn::CapturedPasses> passes_;
  std::optional<optim::GradScaler> scaler_;  // in fp16
  std::unique_ptr<optim::Optimizer> optimizer_;
  Checkpointer checkpointer_;
  std::optional<Progress> progress_;
  std::optional<Timeline> timeline_;  // where a trace is wanted
  DeviceTimes device_times_{backend()};
  std::optional<StopSignals> signals_{std::in_place};  // until run() returns
  std::optional<std::filesystem::path> resumed_from_;
  std::string pending_error_;
  int64_t steps_ = 0;     // of the whole run
  int64_t step_ = 0;      // done
  int64_t position_ = 0;  // of the next step's first sample
  int64_t saved_step_ = -1;
  // Being written in the background; `stall`: what training has waited for it so far.
  struct PendingCheckpoint {
    int64_t step;
    Clock::time_point begun;
    double stall;
  };
  std::optional<PendingCheckpoint> pending_checkpoint_;
  double checkpoint_stall_ = 0;  // since the last step, charged to the next
  Clock::time_point last_save_ = Clock::now();
};

}  // namespace lockstep::train
