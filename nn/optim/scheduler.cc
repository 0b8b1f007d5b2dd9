#include "lockstep/nn/optim/scheduler.h"

#include <algorithm>

#include "lockstep/runtime/error.h"

namespace lockstep::optim {

Scheduler::Scheduler(Optimizer& optimizer, Schedule schedule)
    : Scheduler(optimizer,
                std::vector<Schedule>(static_cast<size_t>(optimizer.groups()), schedule)) {}

Scheduler::Scheduler(Optimizer& optimizer, std::vector<Schedule> schedules)
    : optimizer_(optimizer), schedules_(std::move(schedules)) {
  LOCKSTEP_CHECK(static_cast<int>(schedules_.size()) == optimizer.groups(),
                 "Scheduler: ", schedules_.size(), " schedules for ", optimizer.groups(),
                 " groups");
  for (int group = 0; group < optimizer.groups(); ++group) {
    rates_.push_back(optimizer.learning_rate(group));
  }
  set_current_step(0);
}

void Scheduler::set_current_step(int64_t step) {
  LOCKSTEP_CHECK(step >= 0, "Scheduler: step ", step, " is negative");
  for (int group = 0; group < optimizer_.groups(); ++group) {
    const Schedule& schedule = schedules_[static_cast<size_t>(group)];
    optimizer_.set_learning_rate(group, schedule.at(step, rates_[static_cast<size_t>(group)]));
    if (const auto momentum = schedule.momentum(step)) optimizer_.set_momentum(group, *momentum);
  }
  step_ = step;
}

ReduceLROnPlateau::ReduceLROnPlateau(Optimizer& optimizer, PlateauOptions options)
    : optimizer_(optimizer), options_(std::move(options)) {
  LOCKSTEP_CHECK(options_.factor < 1, "ReduceLROnPlateau: factor ", options_.factor,
                 ", expected below 1");
  const size_t minima = options_.min_lr.size();
  LOCKSTEP_CHECK(minima == 1 || minima == static_cast<size_t>(optimizer.groups()),
                 "ReduceLROnPlateau: ", minima, " minima for ", optimizer.groups(), " groups");
  if (options_.mode == PlateauOptions::Mode::max) state_.best = -state_.best;
}

bool ReduceLROnPlateau::better(double metric) const {
  const bool relative = options_.threshold_mode == PlateauOptions::ThresholdMode::relative;
  const double sign = options_.mode == PlateauOptions::Mode::min ? -1 : 1;
  const double bound = relative ? state_.best * (1 + sign * options_.threshold)
                                : state_.best + sign * options_.threshold;
  return sign * metric > sign * bound;
}

void ReduceLROnPlateau::reduce() {
  for (int group = 0; group < optimizer_.groups(); ++group) {
    const size_t own = options_.min_lr.size() == 1 ? 0 : static_cast<size_t>(group);
    const double before = optimizer_.learning_rate(group);
    const double after = std::max(before * options_.factor, options_.min_lr[own]);
    if (before - after > options_.epsilon) optimizer_.set_learning_rate(group, after);
  }
}

void ReduceLROnPlateau::step(double metric) {
  if (better(metric)) {
    state_.best = metric;
    state_.bad_steps = 0;
  } else {
    ++state_.bad_steps;
  }
  if (state_.cooldown_left > 0) {
    --state_.cooldown_left;
    state_.bad_steps = 0;
  }
  if (state_.bad_steps > options_.patience) {
    reduce();
    state_.cooldown_left = options_.cooldown;
    state_.bad_steps = 0;
  }
}

ReduceLROnPlateau::State ReduceLROnPlateau::state() const {
  State state = state_;
  for (int group = 0; group < optimizer_.groups(); ++group) {
    state.rates.push_back(optimizer_.learning_rate(group));
  }
  return state;
}

void ReduceLROnPlateau::set_state(const State& state) {
  LOCKSTEP_CHECK(static_cast<int>(state.rates.size()) == optimizer_.groups(),
                 "ReduceLROnPlateau: a state of ", state.rates.size(), " groups for ",
                 optimizer_.groups());
  state_ = {state.best, state.bad_steps, state.cooldown_left, {}};
  for (int group = 0; group < optimizer_.groups(); ++group) {
    optimizer_.set_learning_rate(group, state.rates[static_cast<size_t>(group)]);
  }
}

}  // namespace lockstep::optim
