#include "lockstep/collectives/work.h"

#include <algorithm>
#include <utility>

#include "lockstep/collectives/activity.h"
#include "lockstep/collectives/fingerprint.h"
#include "lockstep/collectives/work_state.h"

namespace lockstep {
namespace {

// Of a late collective that somebody wants to be waited for.
constexpr std::chrono::milliseconds kAskAgainAfter{100};

}  // namespace

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

std::string_view name_of(ReduceOp reduction) {
  switch (reduction) {
    case ReduceOp::sum: return "sum";
    case ReduceOp::mean: return "mean";
    case ReduceOp::max: return "max";
    case ReduceOp::min: return "min";
  }
  __builtin_unreachable();
}

std::string WorkState::describe_number() const {
  std::string text = concat({"#", sequence});
  if (!what.empty()) text += concat({" \"", what, "\""});
  if (bucket >= 0) text += concat({", bucket ", bucket});
  return text;
}

std::string WorkState::describe_moment() const {
  const Activity::Moment nothing;
  if (phase.empty() || (step == nothing.step && phase == nothing.phase)) return "";
  return ", " + Activity::Moment{.step = step, .phase = phase}.describe();
}

std::string WorkState::describe() const {
  return concat({name_of(collective), " ", describe_number(), ", on rank ", rank, " of ", size,
                 describe_moment()});
}

std::string WorkState::describe_call() const {
  return concat({signature(), " as ", describe_number(), describe_moment()});
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
         dtype == other.dtype && elements == other.elements && bucket == other.bucket &&
         what == other.what;
}

uint64_t WorkState::fingerprint() const {
  uint64_t hash = 0;
  for (const uint64_t field : {static_cast<uint64_t>(collective), static_cast<uint64_t>(reduction),
                               static_cast<uint64_t>(root), static_cast<uint64_t>(dtype),
                               static_cast<uint64_t>(elements), static_cast<uint64_t>(bucket)}) {
    hash = mixed(hash, field);
  }
  for (const char letter : what) hash = mixed(hash, static_cast<unsigned char>(letter));
  return hash;
}

void WorkState::begin() {
  const std::lock_guard lock(mutex_);
  begun_ = Clock::now();
}

bool WorkState::conclude(std::optional<std::string> error,
                         std::optional<std::chrono::nanoseconds> duration) {
  const std::lock_guard lock(mutex_);
  if (done()) return false;
  error_ = std::move(error);
  ended_ = Clock::now();
  if (duration) begun_ = *ended_ - *duration;
  done_.store(true, std::memory_order_release);
  concluded_.notify_all();
  return true;
}

void WorkState::finish() {
  input = Array();
  output = Array();
  ready.reset();
  conclude(std::nullopt);
}

void WorkState::finish(std::chrono::nanoseconds duration) {
  input = Array();
  output = Array();
  ready.reset();
  conclude(std::nullopt, duration);
}

void WorkState::fail(std::string_view reason) { conclude(concat({describe(), ": ", reason})); }

void Transport::wait(WorkState& work) { work.wait_until_done(); }

void WorkState::wait() {
  if (!done()) transport->wait(*this);
  const std::lock_guard lock(mutex_);
  if (error_) throw CollectiveError(*error_);
}

void WorkState::wait_until_done() {
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
    std::optional<std::string> reason = late ? (*late)(*this) : std::string();
    if (reason) transport->give_up(*this, *reason);
    lock.lock();
    if (!reason) concluded_.wait_for(lock, kAskAgainAfter, [&] { return done(); });
  }
}

std::chrono::nanoseconds WorkState::duration() const {
  const std::lock_guard lock(mutex_);
  return begun_ && ended_ ? *ended_ - *begun_ : std::chrono::nanoseconds{0};
}

WorkState::Progress WorkState::progress() const {
  const std::lock_guard lock(mutex_);
  return {queued_, begun_, ended_, error_.value_or("")};
}

struct Work::Chain {
  Work first;
  std::function<Work()> next;  // empty once it has run
  Work second;
};

Work Work::then(std::function<Work()> next) const {
  Work result;
  result.chain_ = std::make_shared<Chain>(Chain{*this, std::move(next), {}});
  return result;
}

bool Work::done() const {
  if (chain_ != nullptr) return !chain_->next && chain_->second.done();
  return state_ == nullptr || state_->done();
}

void Work::wait() const {
  if (state_ != nullptr) state_->wait();
  if (chain_ == nullptr) return;
  chain_->first.wait();
  if (const auto next = std::exchange(chain_->next, {})) chain_->second = next();
  chain_->second.wait();
}

std::chrono::nanoseconds Work::duration() const {
  if (chain_ != nullptr) return chain_->first.duration() + chain_->second.duration();
  return state_ == nullptr ? std::chrono::nanoseconds{0} : state_->duration();
}

}  // namespace lockstep
