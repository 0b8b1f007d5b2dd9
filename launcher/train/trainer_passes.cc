// The passes of a step: forward and backward over a micro-batch, by the host or by the device
// itself.
#include "lockstep/launcher/train/trainer.h"
#include "lockstep/nn/blocks.h"
#include "lockstep/nn/parallel/sync_batch_norm.h"
#include "lockstep/runtime/log.h"

namespace lockstep::train {

// Whether all ranks make equally many passes, some of them over no samples: they compute something
// together.
bool Trainer::passes_together() const {
  return options_.shard_level() == nn::ShardLevel::parameters ||
         nn::synchronizes_batch_norm(task_.module());
}

// What a graph would replay: the same operations, by this rank alone.
void Trainer::make_passes() {
  passes_.emplace(task_.module(), backend(), copies_ ? &*copies_ : nullptr);
  if (options_.cuda_graph == "off") return passes_->refuse("--cuda-graph off");
  if (!task_.is_static()) {
    passes_->refuse("the program does not say that its passes are all alike (Task::is_static)");
  } else if (options_.shard_level() != nn::ShardLevel::none || passes_together()) {
    passes_->refuse("the ranks communicate within a pass");
  }
  if (options_.cuda_graph == "on" && !passes_->refusal().empty()) {
    fail_usage({"--cuda-graph on: ", passes_->refusal()});
  }
}

// Gradients that are reduced while backward runs are worth more than what a graph saves.
bool Trainer::may_replay() const {
  return communicator_.size() == 1 || !ddp_->synchronizes() || ddp_->overlaps_replays() ||
         options_.cuda_graph == "on";
}

// After the first step: what was asked for and is not done.
void Trainer::note_recomputation() const {
  const std::vector<std::string> kept = nn::blocks_not_recomputed(task_.module());
  if (kept.empty() || communicator_.rank() != 0) return;
  log(LogLevel::warning,
      {"--recompute blocks: ", kept.size(), " blocks keep what they compute, among them ",
       kept.front(), ": the model does not call them as functions of tensors"});
}

// One forward and backward. `weight`: of the mean loss over these samples; `adds`: to the gradients
// of others of this step.
Array Trainer::micro_batch(const data::Share& samples, double weight, bool adds, StepTimes& times) {
  context().random = {.seed = static_cast<uint64_t>(options_.seed),
                      .step = static_cast<uint32_t>(step_ + 1),
                      .first_sample = static_cast<uint32_t>(samples.first - position_)};
  if (scaler_) weight *= scaler_->scale();
  {
    const Phase phase = long_phase("data");
    const Clock::time_point start = Clock::now();
    // Gradients that are there are added to.
    passes_->load(2 * samples.count + adds, [&] { task_.load(samples.first, samples.count); });
    times.data += std::chrono::duration<double>(Clock::now() - start).count();
  }
  const auto pass = [&] {
    Tensor loss;
    {
      const Phase phase = timed_phase("forward", times, &StepTimes::forward);
      loss = this->loss();
    }
    const Phase phase = timed_phase("backward", times, &StepTimes::backward);
    loss.backward(passes_->seed(loss, weight));
    return loss.value();
  };
  if (may_replay() && passes_->captured(pass)) {
    const Phase phase = timed_phase("replay", times, &StepTimes::backward);
    return passes_->replay(weight);
  }
  if (options_.cuda_graph == "on" && !passes_->refusal().empty()) {
    fail({"--cuda-graph on: ", passes_->refusal()});
  }
  const Array loss = pass();
  return samples.count > 0 ? loss : Array();
}

}  // namespace lockstep::train
