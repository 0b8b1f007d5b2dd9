#include "lockstep/launcher/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "lockstep/launcher/train/agreement.h"
#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/files/file_system.h"
#include "lockstep/runtime/version.h"

namespace lockstep::train {
namespace {

// What a resumed run may not change: its samples would not be the ones that are left.
constexpr std::pair<const char*, const char*> kFixedFlags[] = {
    {"global_batch", "--global-batch"}, {"seed", "--seed"}, {"optimizer", "--optimizer"}};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Adds the time until it ends to a counter.
class Timer {
 public:
  explicit Timer(double& total) : total_(total) {}
  ~Timer() { total_ += seconds_since(start_); }

 private:
  double& total_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

Trainer::Trainer(Session session, Task& task)
    : session_(session),
      task_(task),
      options_(session.options),
      communicator_(session.communicator),
      directory_(files::posix_file_system(), options_.run_dir, communicator_.rank()),
      checkpointer_(files::posix_file_system(), communicator_, directory_.checkpoints(),
                    options_.keep) {
  require_same(communicator_, "flags", options_.to_json() + "\n" + task_.config_json());
  agree(communicator_, "options", [&] {
    options_.check();
    plan_.emplace(options_.batch_plan(communicator_.size()));
  });
  steps_ = options_.epochs > 0
               ? static_cast<int64_t>(options_.epochs * static_cast<double>(task_.samples()) /
                                      static_cast<double>(options_.global_batch))
               : options_.steps;
  open_run();
  ddp_.emplace(
      task_.module(), communicator_,
      nn::DataParallelOptions{
          .bucket_sizes = {.other_mb = options_.bucket_mb},
          .placement = {.dtype = options_.dtype(), .seed = static_cast<uint64_t>(options_.seed)}});
  make_optimizer();
  resume();
  progress_.emplace(communicator_.rank() == 0 && !options_.quiet, session_.world.mpi, step_,
                    steps_);
}

void Trainer::open_run() {
  if (steps_ == 0) return;  // nothing will be written
  const bool first = communicator_.rank() == 0;
  agree(communicator_, "run directory", [&] {
    directory_.open();
    if (options_.resume == "never") directory_.set_aside_earlier_run();
  });
  agree(communicator_, "run directory", [&] {
    directory_.log("start, rank " + std::to_string(communicator_.rank()) + " of " +
                   std::to_string(communicator_.size()));
    if (!first) return;
    nlohmann::ordered_json config{{"version", version()},
                                  {"world_size", communicator_.size()},
                                  {"backend", communicator_.backend()},
                                  {"trainer", nlohmann::ordered_json::parse(options_.to_json())},
                                  {"program", nlohmann::ordered_json::parse(task_.config_json())}};
    directory_.write_config(config.dump(2) + "\n");
    std::filesystem::path path = options_.metrics;
    if (path.empty() && directory_.exists()) path = directory_.metrics();
    metrics_.emplace(files::posix_file_system(), path);
  });
}

void Trainer::make_optimizer() {
  std::vector<nn::Parameter> parameters;
  for (const nn::NamedParameter& named : ddp_->parameters()) {
    if (!named.parameter.frozen()) parameters.push_back(named.parameter);
  }
  auto groups = optim::decay_matrices_only(parameters, options_.weight_decay);
  if (options_.optimizer == "sgd") {
    optimizer_ = std::make_unique<optim::SGD>(
        std::move(groups), optim::SGD::Options{.learning_rate = options_.learning_rate,
                                               .momentum = options_.momentum});
  } else {
    optimizer_ = std::make_unique<optim::AdamW>(
        std::move(groups), optim::AdamW::Options{.learning_rate = options_.learning_rate,
                                                 .beta1 = options_.beta1,
                                                 .beta2 = options_.beta2,
                                                 .epsilon = options_.epsilon,
                                                 .decoupled = options_.optimizer == "adamw"});
  }
}

void Trainer::resume() {
  const auto found = checkpointer_.find(options_.resume);
  if (!found) {
    agree(communicator_, "initial weights", [&] { task_.initialize(); });
  } else {
    const Checkpointer::Loaded loaded = checkpointer_.load(*found, state());
    agree(communicator_, "resume", [&] {
      const auto before = nlohmann::json::parse(loaded.attributes);
      const auto now = nlohmann::json::parse(attributes());
      for (const auto& [key, flag] : kFixedFlags) {
        if (steps_ == 0 || (before.contains(key) && before.at(key) == now.at(key))) continue;
        fail_usage({"checkpoint ", found->string(), " was written with ", flag, " ",
                    before.value(key, nlohmann::json()).dump(), ", this run has ",
                    now.at(key).dump(), "; --resume never starts anew"});
      }
      optimizer_->set_steps(before.at("optimizer_steps").get<int64_t>());
    });
    step_ = saved_step_ = loaded.step;
    directory_.log("resume from " + found->string());
    if (metrics_) metrics_->event("resume", {{"step", step_}, {"from", found->string()}});
  }
  if (!metrics_) return;
  int64_t count = 0;
  for (const nn::NamedParameter& named : ddp_->parameters()) count += named.parameter.elements();
  metrics_->event("start", {{"step", step_},
                            {"steps", steps_},
                            {"world_size", int64_t{communicator_.size()}},
                            {"backend", std::string(communicator_.backend())},
                            {"parameters", count},
                            {"precision", options_.precision},
                            {"version", std::string(version())}});
}

Outcome Trainer::run() {
  if (step_ >= steps_) {
    if (steps_ > 0) {
      progress_->note("the run has finished: step " + std::to_string(step_) + " of " +
                      std::to_string(steps_));
    }
    return Outcome::finished_before;
  }
  while (step_ < steps_) {
    const nn::StepReport total = one_step();
    const bool last = step_ == steps_;
    const bool stop = total.stop_requested > 0 && !last;
    const int64_t every = options_.validation_every;
    if (every > 0 && (step_ % every == 0 || last)) validate();
    const int64_t save_every = options_.checkpoint_every_steps();
    if (last || stop || total.checkpoint_due > 0 || (save_every > 0 && step_ % save_every == 0)) {
      save();
    }
    if (!stop) continue;
    if (!directory_.exists()) {
      throw AgreedFailure("stopped on request at step " + std::to_string(step_) +
                              "; nothing is saved without --run-dir",
                          1);
    }
    if (metrics_) metrics_->event("preempted", {{"step", step_}});
    progress_->note("stopped on request at step " + std::to_string(step_) +
                    "; everything is saved, start again to go on");
    return Outcome::stopped;
  }
  if (metrics_) metrics_->event("finish", {{"step", step_}});
  return Outcome::finished;
}

// One forward and backward.
void Trainer::micro_batch(int64_t index, nn::StepReport& mine, StepTimes& times) {
  const int64_t count = plan_->micro_batch();
  const int64_t position = plan_->first_position(step_, communicator_.rank(), index);
  context().random = {.seed = static_cast<uint64_t>(options_.seed),
                      .step = static_cast<uint32_t>(step_ + 1),
                      .first_sample = static_cast<uint32_t>(position % plan_->global_batch())};
  {
    const Timer timer(times.data);
    task_.load(position, count);
  }
  Tensor loss;
  {
    const Timer timer(times.forward);
    loss = task_.loss();
    mine.loss_sum += loss.item() * static_cast<double>(count);
  }
  mine.samples += static_cast<double>(count);
  mine.tokens += static_cast<double>(count * task_.tokens_per_sample());
  // The mean over the ranks of these gradients is that of the mean loss over the global batch.
  const double weight = 1 / static_cast<double>(plan_->accumulation());
  const Timer timer(times.backward);
  loss.backward(Tensor(Array::full(loss.shape(), weight, loss.dtype(), loss.device())));
}

// A rank that fails still takes part in what the others wait for, then all fail together.
nn::StepReport Trainer::forward_backward(StepTimes& times) {
  optimizer_->zero_grad();
  nn::StepReport mine;
  std::string error;
  try {
    const int64_t count = plan_->accumulation();
    for (int64_t i = 0; i < count; ++i) {
      std::optional<nn::DistributedDataParallel::NoSync> no_sync;
      if (i + 1 < count) no_sync.emplace(*ddp_);
      micro_batch(i, mine, times);
    }
  } catch (const CollectiveError&) {
    throw;
  } catch (const std::exception& failure) {
    error = concat({"step ", step_ + 1, ": ", failure.what()});
    mine.failed = 1;
  }
  mine.stop_requested = signals_.requested() ? 1 : 0;
  const auto save_every = options_.checkpoint_every_time();
  mine.checkpoint_due = save_every.count() > 0 && Clock::now() - last_save_ >= save_every ? 1 : 0;
  const nn::StepReport total = ddp_->finish(mine);
  times.exposed_communication =
      std::chrono::duration<double>(ddp_->exposed_communication()).count();
  if (total.failed > 0) agree_on(communicator_, "step", error, 1);
  return total;
}

nn::StepReport Trainer::one_step() {
  const Clock::time_point start = Clock::now();
  StepTimes times;
  times.checkpoint = std::exchange(checkpoint_seconds_, 0);
  optimizer_->set_learning_rate(learning_rate_at(options_, step_, steps_));
  const nn::StepReport total = forward_backward(times);
  double norm = 0;
  {
    const Timer timer(times.optimizer);
    norm = optim::gradient_norm(optimizer_->parameters());
    if (std::isfinite(norm)) optimizer_->step(optim::clip_factor(norm, options_.gradient_clip));
  }
  ++step_;
  report_step(total, norm, seconds_since(start), times);
  if (!std::isfinite(norm)) {
    throw AgreedFailure(
        concat({"step ", step_, ": the norm of the gradients is not finite (loss ",
                total.loss_sum / total.samples, "); the parameters are those of step ", step_ - 1}),
        1);
  }
  return total;
}

void Trainer::report_step(const nn::StepReport& total, double norm, double seconds,
                          const StepTimes& times) {
  const StepMetrics metrics{.step = step_,
                            .loss = total.loss_sum / total.samples,
                            .learning_rate = optimizer_->learning_rate(),
                            .gradient_norm = norm,
                            .samples_per_second = total.samples / seconds,
                            .tokens_per_second = total.tokens / seconds,
                            .seconds = seconds,
                            .time = times,
                            .memory_bytes = backend_of({}).statistics().peak_in_use_bytes};
  if (metrics_) metrics_->step(metrics);
  progress_->step(step_, metrics.loss, metrics.tokens_per_second, metrics.samples_per_second);
}

void Trainer::validate() {
  const int64_t samples = task_.validation_samples();
  if (samples == 0) return;
  const int ranks = communicator_.size(), rank = communicator_.rank();
  const int64_t first = samples * rank / ranks, end = samples * (rank + 1) / ranks;
  const int64_t most = plan_->micro_batch();
  const Array sums = Array::zeros({2}, DType::f64);
  agree(communicator_, "validation", [&] {
    const NoGrad no_grad;
    task_.module().train(false);
    for (int64_t at = first; at < end; at += most) {
      const int64_t count = std::min(most, end - at);
      task_.load_validation(at, count);
      sums.data<double>()[0] += task_.loss().item() * static_cast<double>(count);
    }
    task_.module().train(true);
    sums.data<double>()[1] = static_cast<double>(end - first);
  });
  communicator_.all_reduce(sums, Reduction::sum, {.what = "validation"}).wait();
  const double loss = sums.data<double>()[0] / sums.data<double>()[1];
  if (metrics_) metrics_->event("validation", {{"step", step_}, {"loss", loss}});
  progress_->note(concat({"step ", step_, ": validation loss ", loss}));
}

std::vector<NamedArray> Trainer::state() {
  std::vector<NamedArray> result;
  std::map<const void*, std::string> names;
  for (const nn::NamedParameter& named : ddp_->parameters()) {
    names[named.parameter.identity()] = named.name;
    result.push_back({"model/" + named.name, named.parameter.tensor().value()});
  }
  for (const nn::NamedBuffer& named : task_.module().named_buffers()) {
    result.push_back({"model/" + named.name, named.buffer.array()});
  }
  for (const optim::Optimizer::State& entry : optimizer_->state()) {
    const std::string& name = names.at(optimizer_->parameters()[entry.parameter].identity());
    result.push_back({std::string("optimizer/") + entry.name + "/" + name, entry.values});
  }
  return result;
}

std::string Trainer::attributes() const {
  return nlohmann::ordered_json{{"version", version()},
                                {"global_batch", options_.global_batch},
                                {"seed", options_.seed},
                                {"optimizer", options_.optimizer},
                                {"optimizer_steps", optimizer_->steps()},
                                {"next_sample", step_ * options_.global_batch},
                                {"steps", steps_}}
      .dump();
}

void Trainer::save() {
  if (!directory_.exists() || saved_step_ == step_) return;
  const Clock::time_point start = Clock::now();
  checkpointer_.save(step_, state(), attributes());
  saved_step_ = step_;
  last_save_ = Clock::now();
  checkpoint_seconds_ = seconds_since(start);
  if (metrics_) {
    metrics_->event("checkpoint", {{"step", step_}, {"seconds", checkpoint_seconds_}});
  }
}

}  // namespace lockstep::train
