#include "lockstep/collectives/work.h"

#include <algorithm>

#include "lockstep/collectives/work_state.h"

namespace lockstep {

std::string_view name_of(Collective collective) {
  switch (collective) {
    case Collective::all_reduce: return "all_reduce";
    case Collective::reduce_scatter: return "reduce_scatter";
    case Collective::all_gather: return "all_gather";
    case Collective::broadcast: return "broadcast";
    case Collective::barrier: return "barrier";
    case Collective::split: return "split";
  }
  __builtin_unreachable();
}

std::string_view name_of(Reduction reduction) {
  switch (reduction) {
    case Reduction::sum: return "sum";
    case Reduction::mean: return "mean";
    case Reduction::max: return "max";
    case Reduction::min: return "min";
  }
  __builtin_unreachable();
}

std::string WorkState::describe() const {
  std::string text = concat({name_of(collective), " #", sequence});
  if (!what.empty()) text += concat({" \"", what, "\""});
  if (bucket >= 0) text += concat({", bucket ", bucket});
  return text + concat({", on rank ", rank, " of ", size});
}

std::string WorkState::signature() const {
  std::string text(name_of(collective));
  if (collective == Collective::barrier || collective == Collective::split) return text;
  if (collective == Collective::all_reduce || collective == Collective::reduce_scatter) {
    text += concat({"(", name_of(reduction), ")"});
  } else if (collective == Collective::broadcast) {
    text += concat({" from rank ", root});
  }
  return text + concat({" of ", elements, " ", dtype});
}

bool WorkState::matches(const WorkState& other) const {
  return collective == other.collective && reduction == other.reduction && root == other.root &&
         dtype == other.dtype && elements == other.elements;
}

void WorkState::begin() {
  const std::lock_guard lock(mutex_);
  begun_ = Clock::now();
}

bool WorkState::conclude(std::optional<std::string> error) {
  const std::lock_guard lock(mutex_);
  if (done()) return false;
  error_ = std::move(error);
  if (begun_ != Clock::time_point{}) duration_ = Clock::now() - begun_;
  done_.store(true, std::memory_order_release);
  concluded_.notify_all();
  return true;
}

void WorkState::finish() {
  input = Array();
  output = Array();
  conclude(std::nullopt);
}

void WorkState::fail(std::string_view reason) { conclude(concat({describe(), ": ", reason})); }

void WorkState::wait() {
  const Clock::time_point entered = Clock::now();
  std::unique_lock lock(mutex_);
  while (!done()) {
    if (timeout == timeout.zero()) {
      concluded_.wait(lock);
      continue;
    }
    const auto deadline = std::max(entered, transport->last_progress()) + timeout;
    if (Clock::now() < deadline) {
      concluded_.wait_until(lock, deadline);
      continue;
    }
    lock.unlock();  // the transport fails this work through the same lock
    transport->give_up(*this);
    lock.lock();
  }
  if (error_) throw CollectiveError(*error_);
}

std::chrono::nanoseconds WorkState::duration() const {
  const std::lock_guard lock(mutex_);
  return duration_;
}

bool Work::done() const { return state_ == nullptr || state_->done(); }

void Work::wait() const {
  if (state_ != nullptr) state_->wait();
}

std::chrono::nanoseconds Work::duration() const {
  return state_ == nullptr ? std::chrono::nanoseconds{0} : state_->duration();
}

}  // namespace lockstep
