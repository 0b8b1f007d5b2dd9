// What a run's checkpoints hold, and how it goes on from one.
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "lockstep/launcher/train/agreement.h"
#include "lockstep/launcher/train/trainer.h"
#include "lockstep/runtime/log.h"
#include "lockstep/runtime/version.h"

namespace lockstep::train {
namespace {

const std::string kModel = "model/";

}  // namespace

void Trainer::load_or_initialize() {
  resumed_from_ = checkpointer_.find(options_.resume);
  if (resumed_from_) {
    const auto check = [&](const std::string& attributes) {
      check_same_run(attributes, *resumed_from_);
    };
    const bool trains = steps_ > 0;
    const Checkpointer::Loaded loaded = checkpointer_.load(
        *resumed_from_, trains ? state() : model_state(), check, trains ? "" : kModel);
    publish_slices();
    const auto attributes = nlohmann::json::parse(loaded.attributes);
    if (trains) optimizer_->set_steps(attributes.at("optimizer_steps"));
    position_ = attributes.at("next_sample");
    // Absent where the run before had another precision.
    if (scaler_ && attributes.contains("grad_scaler")) {
      const auto& saved = attributes.at("grad_scaler");
      scaler_->load_state(
          {.scale = saved.at("scale"), .growth_tracker = saved.at("growth_tracker")});
    }
    step_ = saved_step_ = loaded.step;
    if (options_.epochs > 0) steps_ = step_ + plan_->steps_from(position_);
    return;
  }
  agree(communicator_, "initial weights", [&] {
    if (task_.initialize() || steps_ > 0) return;
    fail_usage(
        {"no weights to use: give --resume, or a --run-dir with a checkpoint, or steps to "
         "train"});
  });
  publish_slices();
}

// What was read into slices goes to all ranks.
void Trainer::publish_slices() {
  for (nn::ShardOwner* owner : nn::shard_owners(task_.module().parameters())) {
    owner->values_changed();
  }
}

// A run that goes on must mean the same: its samples are those that are left, its tensors those of
// the same function. To use a model without training only that must be the same.
void Trainer::check_same_run(const std::string& attributes,
                             const std::filesystem::path& checkpoint) {
  const auto before = nlohmann::json::parse(attributes);
  const auto now = nlohmann::json::parse(this->attributes());
  const auto compare = [&](const char* part) {
    for (const auto& [key, value] : now.at(part).items()) {
      const auto saved =
          before.contains(part) ? before.at(part).value(key, nlohmann::json()) : nlohmann::json();
      if (saved == value) continue;
      std::string flag = "--" + key;
      std::replace(flag.begin(), flag.end(), '_', '-');
      fail_usage({"checkpoint ", checkpoint.string(), " was written with ", flag, " ", saved.dump(),
                  ", this run has ", value.dump()});
    }
  };
  compare("model");
  if (steps_ == 0) return;
  compare("data");
  compare("trainer");
}

std::vector<NamedArray> Trainer::model_state() {
  std::vector<NamedArray> result;
  for (const auto& [name, parameter] : ddp_->parameters()) {
    result.push_back({kModel + name, parameter.own_value()});
    if (parameter.shard()) result.back().slice = {parameter.shape(), parameter.own_begin()};
  }
  for (const nn::NamedBuffer& named : task_.module().named_buffers()) {
    result.push_back({kModel + named.name, named.buffer.array()});
  }
  return result;
}

std::vector<NamedArray> Trainer::state() {
  std::vector<NamedArray> result = model_state();
  std::map<const void*, std::string> names;
  for (const auto& [name, parameter] : ddp_->parameters()) names[parameter.identity()] = name;
  for (const optim::Optimizer::State& entry : optimizer_->state()) {
    const nn::Parameter& parameter = optimizer_->parameters()[entry.parameter];
    const std::string& name = names.at(parameter.identity());
    result.push_back({"optimizer/" + entry.name + "/" + name, entry.values});
    if (entry.is_slice) result.back().slice = {parameter.shape(), entry.begin};
  }
  return result;
}

std::string Trainer::attributes() const {
  using Json = nlohmann::ordered_json;
  const Task::Identity identity = task_.identity();
  Json json{{"version", version()},
            {"model", Json::parse(identity.model)},
            {"data", Json::parse(identity.data)},
            {"trainer",
             {{"global_batch", options_.global_batch},
              {"seed", options_.seed},
              {"optimizer", options_.optimizer}}},
            {"optimizer_steps", optimizer_->steps()},
            {"next_sample", position_},
            {"steps", steps_}};
  if (scaler_) {
    const optim::GradScaler::State& state = scaler_->state();
    json["grad_scaler"] = {{"scale", state.scale}, {"growth_tracker", state.growth_tracker}};
  }
  return json.dump();
}

void Trainer::save(bool in_background) {
  if (!directory_.exists() || saved_step_ == step_) return;
  try {
    complete_checkpoint();
  } catch (const AgreedFailure& failure) {
    if (in_background) throw;
    warn("the checkpoint before was not written", failure);  // this one is newer
  }
  const Phase phase = long_phase("checkpoint");
  const Clock::time_point start = Clock::now();
  if (in_background) {
    try {
      checkpointer_.begin(step_, state(), attributes());
    } catch (const AgreedFailure& failure) {
      warn("a checkpoint is written at once, in spite of --checkpoint-async", failure);
      in_background = false;
    }
  }
  if (!in_background) checkpointer_.save(step_, state(), attributes());
  saved_step_ = step_;
  last_save_ = Clock::now();
  const double stall = std::chrono::duration<double>(last_save_ - start).count();
  checkpoint_stall_ += stall;
  if (in_background) {
    pending_checkpoint_ = {step_, start, stall};
  } else {
    report_checkpoint(step_, start, stall);
  }
}

void Trainer::warn(std::string_view what, const AgreedFailure& failure) const {
  if (communicator_.rank() == 0) log(LogLevel::warning, {what, ": ", failure.what()});
}

void Trainer::give_up_checkpoint() {
  if (!pending_checkpoint_) return;
  const Phase phase = long_phase("checkpoint");
  pending_checkpoint_.reset();
  checkpointer_.give_up();
}

void Trainer::complete_checkpoint() {
  if (!pending_checkpoint_) return;
  const Phase phase = long_phase("checkpoint");
  const PendingCheckpoint pending = *std::exchange(pending_checkpoint_, std::nullopt);
  const Clock::time_point start = Clock::now();
  checkpointer_.commit();
  const double stall = std::chrono::duration<double>(Clock::now() - start).count();
  checkpoint_stall_ += stall;
  report_checkpoint(pending.step, pending.begun, pending.stall + stall);
}

void Trainer::report_checkpoint(int64_t step, Clock::time_point begun, double stall) {
  const double seconds = std::chrono::duration<double>(Clock::now() - begun).count();
  write_metrics([&] {
    metrics_->event("checkpoint", {{"step", step}, {"seconds", seconds}, {"stall_seconds", stall}});
  });
}

}  // namespace lockstep::train
