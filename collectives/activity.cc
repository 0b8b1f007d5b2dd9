#include "lockstep/collectives/activity.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "lockstep/runtime/error.h"

namespace lockstep {

std::string Activity::Moment::describe() const {
  return concat({"step ", step, ", phase ", phase});
}

Activity::Moment Activity::now() const {
  const std::lock_guard lock(mutex_);
  if (left_) return {step_, left_->phase, left_->since};
  if (phase_ != nullptr) return {step_, phase_->name_, phase_->began_};
  return {.step = step_, .since = idle_since_};
}

void Activity::set_step(int64_t step) {
  const std::lock_guard lock(mutex_);
  step_ = step;
  ++changes_;
}

Activity::Milliseconds Activity::allowance(Milliseconds timeout) const {
  const std::lock_guard lock(mutex_);
  Clock::time_point until = Clock::now();
  if (allowance_ended_) until = std::max(until, *allowance_ended_ + timeout);
  for (const Phase* phase = phase_; phase != nullptr; phase = phase->outer_) {
    until = std::max(until, phase->began_ + phase->allowance_);
  }
  return std::chrono::ceil<Milliseconds>(std::max(until - Clock::now(), Clock::duration(0)));
}

uint64_t Activity::changes() const {
  const std::lock_guard lock(mutex_);
  return changes_;
}

Activity::Phase::Phase(Activity& activity, std::string_view name, Milliseconds allowance)
    : activity_(activity),
      name_(name),
      allowance_(allowance),
      exceptions_(std::uncaught_exceptions()) {
  const std::lock_guard lock(activity_.mutex_);
  outer_ = std::exchange(activity_.phase_, this);
  activity_.left_.reset();
  ++activity_.changes_;
}

Activity::Phase::~Phase() {
  const std::lock_guard lock(activity_.mutex_);
  activity_.phase_ = outer_;
  if (allowance_ > allowance_.zero()) activity_.allowance_ended_ = Clock::now();
  if (outer_ == nullptr) activity_.idle_since_ = Clock::now();
  if (std::uncaught_exceptions() > exceptions_ && !activity_.left_) {
    activity_.left_ = {.phase = std::move(name_), .since = began_};
  }
  ++activity_.changes_;
}

}  // namespace lockstep
