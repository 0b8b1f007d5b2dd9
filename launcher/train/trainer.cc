#include "lockstep/launcher/train/trainer.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "lockstep/launcher/train/agreement.h"
#include "lockstep/launcher/train/make_optimizer.h"
#include "lockstep/nn/blocks.h"
#include "lockstep/nn/optim.h"
#include "lockstep/runtime/files/file_system.h"
#include "lockstep/runtime/log.h"
#include "lockstep/runtime/version.h"

namespace lockstep::train {
namespace {

std::string host_name() {
  char name[256] = "unknown";
  gethostname(name, sizeof name - 1);
  return name;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// For which a rank in a phase that may take long is not late, or ten deadlines.
constexpr std::chrono::milliseconds kLongPhase = std::chrono::minutes(10);

}  // namespace

Trainer::Trainer(Session session, Task& task)
    : session_(session),
      task_(task),
      options_(session.options),
      communicator_(session.communicator),
      directory_(files::posix_file_system(), options_.run_dir, communicator_.rank()),
      checkpointer_(files::posix_file_system(), communicator_, directory_.checkpoints(),
                    options_.keep) {
  const Phase phase = long_phase("start");
  const Task::Identity identity = task_.identity();
  require_same(communicator_, "flags",
               options_.to_json() + identity.model + identity.data + identity.other);
  if (!options_.trace.empty()) timeline_.emplace(communicator_);
  if (const auto dtype = options_.autocast_dtype()) copies_.emplace(*dtype);
  agree(communicator_, "options", [&] {
    options_.check();
    plan_.emplace(options_.batch_plan(communicator_.size(), task_.samples(), task_.endless()));
    if (options_.validation_every > 0 && task_.validation_samples() == 0) {
      fail_usage({"--validation-every ", options_.validation_every, " without held-out data"});
    }
    if (options_.recompute == "blocks" && nn::recompute_blocks(task_.module()) == 0) {
      fail_usage({"--recompute blocks: the model has no list of blocks"});
    }
    make_passes();
    steps_ = options_.epochs > 0 ? plan_->steps_from(0) : options_.steps;
    if (steps_ > 0) directory_.open();
  });
  nn::DataParallelOptions data_parallel = options_.data_parallel();
  data_parallel.copies = copies_ ? &*copies_ : nullptr;
  ddp_.emplace(task_.module(), communicator_, std::move(data_parallel));
  make_optimizer();
  load_or_initialize();
  if (step_ < steps_) begin_writing();
  progress_.emplace(communicator_.rank() == 0 && !options_.quiet, session_.world.mpi, step_,
                    steps_);
  note_precision();
}

Phase Trainer::phase(std::string_view name) {
  return Phase(communicator_.activity(), name, {.timeline = timeline_ ? &*timeline_ : nullptr});
}

Phase Trainer::long_phase(std::string_view name) {
  return Phase(communicator_.activity(), name,
               {.allowance = std::max(10 * options_.timeout, kLongPhase),
                .timeline = timeline_ ? &*timeline_ : nullptr});
}

Phase Trainer::timed_phase(std::string_view name, StepTimes& times, double StepTimes::*seconds) {
  return Phase(communicator_.activity(), name,
               {.times = &times,
                .seconds = seconds,
                .device = &device_times_,
                .timeline = timeline_ ? &*timeline_ : nullptr});
}

// Only once all that can be refused has been: a start that fails leaves the directory as it was.
void Trainer::begin_writing() {
  agree(communicator_, "run directory", [&] {
    if (timeline_ && communicator_.rank() == 0) Timeline::check_file(options_.trace);
  });
  agree(communicator_, "run directory", [&] {
    if (!resumed_from_) {
      directory_.set_aside_earlier_run();
    } else if (directory_.exists()) {
      directory_.set_aside_checkpoints_after(step_);
    }
    directory_.log("rank " + std::to_string(communicator_.rank()) + " of " +
                   std::to_string(communicator_.size()) + " begins after step " +
                   std::to_string(step_));
    if (communicator_.rank() != 0) return;
    using Json = nlohmann::ordered_json;
    const Task::Identity identity = task_.identity();
    const Json config{{"version", version()},
                      {"world_size", communicator_.size()},
                      {"backend", communicator_.backend()},
                      {"device", communicator_.device().to_string()},
                      {"device_description", backend().description()},
                      {"host", host_name()},
                      {"trainer", Json::parse(options_.to_json())},
                      {"model", Json::parse(identity.model)},
                      {"data", Json::parse(identity.data)},
                      {"program", Json::parse(identity.other)}};
    directory_.write_config(config.dump(2) + "\n");
    std::filesystem::path path = options_.metrics;
    if (path.empty() && directory_.exists()) path = directory_.metrics();
    metrics_.emplace(files::posix_file_system(), path);
    if (resumed_from_) {
      metrics_->event("resume", {{"step", step_}, {"from", resumed_from_->string()}});
    }
    int64_t count = 0;
    for (const nn::NamedParameter& named : ddp_->parameters()) count += named.parameter.elements();
    metrics_->event("start", {{"step", step_},
                              {"steps", steps_},
                              {"world_size", int64_t{communicator_.size()}},
                              {"backend", std::string(communicator_.backend())},
                              {"device", communicator_.device().to_string()},
                              {"device_description", backend().description()},
                              {"parameters", count},
                              {"precision", options_.precision},
                              {"version", std::string(version())}});
  });
}

void Trainer::make_optimizer() {
  std::vector<nn::Parameter> parameters;
  for (const nn::NamedParameter& named : ddp_->parameters()) {
    if (!named.parameter.frozen()) parameters.push_back(named.parameter);
  }
  if (options_.precision == "fp16") scaler_.emplace();
  optimizer_ = train::make_optimizer(options_, parameters);
  if (copies_) optimizer_->set_copies(&*copies_);
}

Outcome Trainer::run() {
  const Outcome outcome = train_and_complete();
  if (timeline_) write_trace();
  if (outcome != Outcome::stopped) {
    agree_on(communicator_, "metrics", pending_error_, 1);
  } else if (!pending_error_.empty()) {  // but what was trained is saved
    log(LogLevel::warning, {pending_error_});
  }
  signals_.reset();
  return outcome;
}

// Where the ranks leave together, the checkpoint that they are writing is whole before they go. Why
// they do is told first: the writing may take a while.
Outcome Trainer::train_and_complete() {
  try {
    return train();
  } catch (const AgreedFailure& failure) {
    if (!pending_checkpoint_) throw;
    warn("the run ends when its checkpoint is written, because of this", failure);
    // Left by the failure, as the one before was.
    const Phase phase = long_phase("checkpoint");
    try {
      complete_checkpoint();
    } catch (const AgreedFailure&) {
      // The first failure is what is told.
    }
    throw;
  } catch (const CollectiveError& error) {
    if (pending_checkpoint_) log(LogLevel::warning, {error.what()});
    throw;
  }
}

Outcome Trainer::train() {
  if (step_ >= steps_) {
    if (steps_ > 0) {
      progress_->note("the run has finished: it stands at step " + std::to_string(step_) + " of " +
                      std::to_string(steps_));
    }
    return Outcome::finished_before;
  }
  bool first = true;
  while (step_ < steps_) {
    const nn::StepReport total = one_step();
    if (std::exchange(first, false)) note_recomputation();
    const bool last = step_ == steps_;
    const bool stop = total.stop_requested > 0 && !last;
    const bool written = total.checkpoint_written == communicator_.size();
    if (!last && !stop && (written || total.checkpoint_failed > 0)) complete_checkpoint();
    // There may be no time for two.
    if (stop && !written) give_up_checkpoint();
    // What is trained is saved before anything that takes long; a stop does without that.
    const int64_t every = options_.validation_every, save_every = options_.checkpoint_every_steps();
    const bool validates = !stop && every > 0 && (step_ % every == 0 || last);
    if (last || stop || total.checkpoint_due > 0 || (save_every > 0 && step_ % save_every == 0)) {
      save(options_.checkpoint_async && !last && !stop && !validates);
    }
    if (validates) validate();
    if (!stop) continue;
    if (!directory_.exists()) {
      throw AgreedFailure("stopped on request at step " + std::to_string(step_) +
                              "; nothing is saved without --run-dir",
                          1);
    }
    write_metrics([&] { metrics_->event("preempted", {{"step", step_}}); });
    progress_->note(
        concat({"stopped on request at step ", step_, "; everything is saved, start again ",
                options_.resume == "auto" ? "" : "with --resume auto ", "to go on"}));
    return Outcome::stopped;
  }
  write_metrics([&] { metrics_->event("finish", {{"step", step_}}); });
  return Outcome::finished;
}

void Trainer::write_metrics(const std::function<void()>& write) {
  if (!metrics_) return;
  try {
    write();
  } catch (const Error& error) {
    pending_error_ = error.what();
  }
}

void Trainer::write_trace() {
  StepTimes rest;  // the last step's optimizer
  device_times_.collect(rest, &*timeline_);
  try {
    timeline_->write(options_.trace);
  } catch (const CollectiveError&) {
    throw;
  } catch (const Error& error) {
    pending_error_ = error.what();
  }
}

void Trainer::add_losses(const std::vector<Array>& losses, const std::vector<int64_t>& counts,
                         nn::StepReport& mine) {
  const Phase phase = this->phase("backward");
  for (size_t i = 0; i < losses.size(); ++i) {
    const auto count = static_cast<double>(counts[i]);
    if (losses[i]) mine.loss_sum += losses[i].item() * count;
    mine.samples += count;
    mine.tokens += count * static_cast<double>(task_.tokens_per_sample());
  }
}

// The others wait for what this rank will not take part in: parameters, or a batch's statistics.
void Trainer::break_off(const std::string& error) {
  const std::string reason = concat({"rank ", communicator_.rank(), " has failed in ", error});
  communicator_.abort(reason);
  throw CollectiveError(reason);
}

// A rank that fails still takes part in what the others wait for, then all fail together.
nn::StepReport Trainer::forward_backward(StepTimes& times) {
  optimizer_->zero_grad();
  nn::StepReport mine;
  std::string error = pending_error_;
  bool computes = true;
  const auto fail = [&](const char* what) {
    error = concat({communicator_.activity().now().describe(), ": ", what});
    computes = false;
    if (passes_together()) break_off(error);
  };
  const data::Share step = plan_->step_at(position_);
  const data::Share share = plan_->part_of(step, communicator_.rank());
  const bool reduces = ddp_->reduces_each_micro_batch(), together = passes_together();
  const int64_t most = plan_->micro_batch(), own = (share.count + most - 1) / most;
  const int64_t rounds = reduces || together ? plan_->micro_batches_of(step) : own;
  std::vector<Array> losses;  // of each micro-batch
  std::vector<int64_t> counts;
  for (int64_t round = 0; round < rounds; ++round) {
    const bool last = round + 1 == rounds;
    const int64_t done = std::min(round * most, share.count);
    const int64_t count = std::min(most, share.count - done);
    try {
      std::optional<nn::DistributedDataParallel::NoSync> no_sync;
      if (!last && !reduces) no_sync.emplace(*ddp_);
      // The mean over the ranks of their sums is the mean over the step's samples.
      const double weight =
          static_cast<double>(count * communicator_.size()) / static_cast<double>(step.count);
      // A rank whose pass has failed only takes part in the reductions.
      if (computes && (count > 0 || together)) {
        losses.push_back(micro_batch({share.first + done, count}, weight, !losses.empty(), times));
        counts.push_back(count);
      }
      // Only now, when all that a device is to do is queued: reading waits for it.
      if (last && computes) add_losses(losses, counts, mine);
    } catch (const CollectiveError&) {
      throw;
    } catch (const std::bad_alloc&) {
      fail("out of memory; a smaller --micro-batch needs less");
    } catch (const OutOfMemory& failure) {
      fail(concat({failure.what(), "; a smaller --micro-batch needs less"}).c_str());
    } catch (const std::exception& failure) {
      fail(failure.what());
    }
    if (!last && reduces) ddp_->reduce();
  }
  mine.stop_requested = signals_->requested() ? 1 : 0;
  const auto save_every = options_.checkpoint_every_time();
  mine.checkpoint_due = save_every.count() > 0 && Clock::now() - last_save_ >= save_every ? 1 : 0;
  mine.checkpoint_written = checkpointer_.is_written() ? 1 : 0;
  mine.checkpoint_failed = checkpointer_.failure().empty() ? 0 : 1;
  mine.failed = error.empty() ? 0 : 1;
  const Phase phase = this->phase("reduction");
  const bool tuning = ddp_->tuning();
  const nn::StepReport total = ddp_->finish(mine);
  if (tuning && !ddp_->tuning()) {
    write_metrics([&] { metrics_->event("bucket_size", {{"mb", ddp_->bucket_mb()}}); });
  }
  times.exposed_communication =
      std::chrono::duration<double>(ddp_->exposed_communication()).count();
  if (total.failed > 0) agree_on(communicator_, "step", error, 1);
  return total;
}

nn::StepReport Trainer::one_step() {
  communicator_.activity().set_step(step_ + 1);
  const Clock::time_point start = Clock::now();
  StepTimes times;
  times.checkpoint = std::exchange(checkpoint_stall_, 0);
  optimizer_->set_learning_rate(learning_rate_at(options_, step_, steps_));
  const nn::StepReport total = forward_backward(times);
  std::optional<double> loss_scale;
  if (scaler_) loss_scale = scaler_->scale();
  double norm = 0;
  {
    const Phase phase = timed_phase("optimizer", times, &StepTimes::optimizer);
    norm = update(times);
  }
  ++step_;
  position_ += plan_->step_at(position_).count;
  report_step(total, norm, loss_scale, seconds_since(start), times);
  if (!std::isfinite(norm)) report_overflow(total.loss_sum / total.samples);
  return total;
}

void Trainer::report_step(const nn::StepReport& total, double norm,
                          std::optional<double> loss_scale, double seconds,
                          const StepTimes& times) {
  const StepMetrics metrics{.step = step_,
                            .loss = total.loss_sum / total.samples,
                            .learning_rate = optimizer_->learning_rate(),
                            .gradient_norm = norm,
                            .loss_scale = loss_scale,
                            .samples_per_second = total.samples / seconds,
                            .tokens_per_second = total.tokens / seconds,
                            .seconds = seconds,
                            .time = times,
                            .memory_bytes = backend().statistics().peak_in_use_bytes};
  write_metrics([&] { metrics_->step(metrics); });
  progress_->step(step_, metrics.loss, metrics.tokens_per_second, metrics.samples_per_second);
}

}  // namespace lockstep::train
