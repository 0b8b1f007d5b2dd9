// What the worker's thread does.
#include <algorithm>
#include <utility>

#include "lockstep/collectives/nccl/worker.h"

namespace lockstep::nccl {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

// A late collective that somebody wants to be waited for.
constexpr milliseconds kAskAgainAfter{100};
// Until the device has ended what was aborted.
constexpr milliseconds kAbortWithin{5000};

}  // namespace

void Worker::run(const UniqueId& id, const Place& place, milliseconds timeout) {
  try {
    join_world(id, place, timeout);
    while (const std::shared_ptr<Task> task = next()) execute(*task);
    finalize();
  } catch (const std::exception& error) {
    abort(error.what());
    end_groups();
  }
  end();
}

void Worker::join_world(const UniqueId& id, const Place& place, milliseconds timeout) {
  const Clock::time_point deadline = Clock::now() + timeout;
  int code = library_.init(id, place.rank, place.size);
  groups_.push_back(0);
  while (code == Library::kInProgress) {
    if (timeout > timeout.zero() && Clock::now() >= deadline) {
      throw CollectiveError(concat({"NCCL's world of ", place.size, " ranks has not come together ",
                                    "within ", timeout.count(), " ms, as rank ", place.rank,
                                    " sees it: a rank is late or gone"}));
    }
    std::this_thread::sleep_for(milliseconds(1));
    code = library_.state(0);
  }
  check(code, 0);
  note_progress();
  const std::lock_guard lock(mutex_);
  joined_ = true;
  changed_.notify_all();
}

// The next task that was submitted; null: there will be none.
std::shared_ptr<Worker::Task> Worker::next() {
  for (;;) {
    look();
    std::unique_lock lock(mutex_);
    if (broken_) throw CollectiveError(*broken_);
    if (!tasks_.empty()) {
      current_ = std::move(tasks_.front());
      tasks_.pop_front();
      return current_;
    }
    if (!pending_.empty() || (!freed_.empty() && !closing_)) {
      lock.unlock();
      rest();
      continue;
    }
    if (closing_) return nullptr;
    submitted_.wait(lock, [&] { return !tasks_.empty() || broken_ || closing_; });
  }
}

void Worker::execute(Task& task) {
  advanced_ = Clock::now();
  if (pending_.empty()) note_progress();
  if (task.freed != nullptr) {
    freed_.emplace_back(task.freed, task.events);
    const std::lock_guard lock(mutex_);
    current_ = nullptr;
  } else if (task.call) {
    call(task);
  } else {
    launch(task);
  }
}

// Until nothing is under way.
void Worker::drain() {
  while (!pending_.empty()) {
    look();
    rest();
  }
}

void Worker::call(Task& task) {
  drain();
  if (task.work) task.work->begin();
  task.call();
  note_progress();
  if (task.work) task.work->finish();
  const std::lock_guard lock(mutex_);
  current_ = nullptr;
  changed_.notify_all();
}

void Worker::launch(Task& task) {
  const Stream stream = library_.stream();
  if (task.on_host) {
    open_passage(task);
    check(staging_.enter(*task.passage, task.input));
  } else {
    check(library_.wait(stream, task.ready));
  }
  check(library_.record(task.events->begin, stream));
  settle(task.group, task.on_host ? issue(task, task.passage->input(), task.passage->output())
                                  : issue(task, task.input, task.output));
  if (task.on_host) check(staging_.leave(*task.passage));
  check(library_.record(task.events->end, stream));
  const std::lock_guard lock(mutex_);
  task.queued = true;
  pending_.push_back(std::move(current_));
  changed_.notify_all();
}

// The device is asked to free memory only when nothing is under way: it would wait for that, and
// this thread could not see it fail.
void Worker::open_passage(Task& task) {
  int code = staging_.open(*task.work, &task.passage.emplace());
  if (code != 0 && trim_) {
    drain();
    trim_();
    code = staging_.open(*task.work, &*task.passage);
  }
  check(code);
}

int Worker::issue(const Task& task, void* input, void* output) {
  const WorkState& work = *task.work;
  switch (work.collective) {
    case Collective::all_reduce:
      return library_.all_reduce(task.group, output, work.elements, work.dtype, work.reduction);
    case Collective::reduce_scatter:
      return library_.reduce_scatter(task.group, input, output, work.elements, work.dtype,
                                     work.reduction);
    case Collective::all_gather:
      return library_.all_gather(task.group, input, output, work.elements, work.dtype);
    case Collective::broadcast:
      return library_.broadcast(task.group, output, work.elements, work.dtype, work.root);
    case Collective::barrier:
      return library_.all_reduce(task.group, output, 1, DType::u8, ReduceOp::max);
    case Collective::split: break;
  }
  __builtin_unreachable();
}

// Until a call on `group` that returned `code` is over.
void Worker::settle(int group, int code) {
  while (code == Library::kInProgress) {
    look();
    rest();
    code = library_.state(group);
  }
  check(code, group);
}

// At what is under way. Throws CollectiveError once it has failed.
void Worker::look() {
  {
    const std::lock_guard lock(mutex_);
    if (broken_) throw CollectiveError(*broken_);
  }
  advance();
  release_freed();
  const Task* oldest = pending_.empty() ? current_.get() : pending_.front().get();
  if (oldest == nullptr) return;
  const int code = library_.state(oldest->group);
  if (code != Library::kInProgress) check(code, oldest->group);
  check_deadline(*oldest);
}

void Worker::advance() {
  while (!pending_.empty() && has_ended(*pending_.front())) {
    Task& task = *pending_.front();
    float milliseconds = 0;
    check(library_.elapsed(task.events->begin, task.events->end, &milliseconds));
    if (task.passage) staging_.finish(*task.passage, task.output);
    note_progress();
    const std::chrono::duration<double, std::milli> took(milliseconds);
    task.work->finish(std::chrono::duration_cast<std::chrono::nanoseconds>(took));
    const std::lock_guard lock(mutex_);
    pending_.pop_front();
    changed_.notify_all();
  }
}

void Worker::release_freed() {
  while (current_ == nullptr && pending_.empty() && !freed_.empty() &&
         is_done(freed_.front().second->ready)) {
    void* data = freed_.front().first;
    freed_.pop_front();
    release(data);
  }
}

void Worker::release(void* data) {
  if (const auto found = registrations_.find(data); found != registrations_.end()) {
    const auto [group, registration] = found->second;
    registrations_.erase(found);
    check(library_.withdraw(group, registration), group);
  }
  library_.free(data);
}

// As long as this rank's own kernels keep a collective from its beginning nobody is late: what they
// wait for themselves has come before.
bool Worker::has_ended(Task& task) {
  if (!task.begun) {
    nobody_is_late();
    if (!is_done(task.events->begin)) return false;
    task.begun = true;
    task.work->begin();
  }
  return is_done(task.events->end);
}

void Worker::check_deadline(const Task& task) {
  if (!task.work || task.work->timeout == task.work->timeout.zero()) return;
  WorkState& work = *task.work;
  const Clock::time_point now = Clock::now();
  if (now < last_progress() + work.timeout || now < ask_again_) return;
  const std::optional<std::string> reason = work.late ? (*work.late)(work) : std::string();
  ask_again_ = Clock::now() + kAskAgainAfter;
  if (reason) give_up(work, *reason);
}

void Worker::give_up(WorkState& work, std::string_view reason) {
  advance();
  if (work.done() || Clock::now() < last_progress() + work.timeout) return;
  abort(concat({"no progress for ", work.timeout.count(), " ms in ", name_of(work.collective), " #",
                work.sequence, "; ",
                reason.empty() ? "a rank is late or gone, or made another call" : reason}));
}

// Between two looks: as long as something has just advanced only for others to run; then sleeping,
// a quarter of the time since, unless something is submitted. Not for long where the host waits for
// values, and its device soon for the host.
void Worker::rest() {
  const auto waited = Clock::now() - advanced_;
  if (waited < microseconds(100)) return std::this_thread::yield();
  const bool for_the_host = !pending_.empty() && pending_.back()->on_host;
  const microseconds most(for_the_host && waited < milliseconds(20) ? 50 : 1000);
  std::unique_lock lock(mutex_);
  const bool launching = current_ != nullptr;
  submitted_.wait_for(lock, std::clamp<Clock::duration>(waited / 4, microseconds(20), most),
                      [&] { return broken_ || (!launching && !tasks_.empty()); });
}

// Of use when nothing is under way: all ranks end their groups.
void Worker::finalize() {
  milliseconds timeout;
  {
    const std::lock_guard lock(mutex_);
    timeout = closing_timeout_;
  }
  for (const auto& [data, registration] : registrations_) {
    check(library_.withdraw(registration.first, registration.second), registration.first);
  }
  registrations_.clear();
  const Clock::time_point deadline = Clock::now() + timeout;
  std::reverse(groups_.begin(), groups_.end());  // splits before what they were split from
  for (const int group : groups_) {
    int code = library_.finalize(group);
    while (code == Library::kInProgress) {
      if (timeout > timeout.zero() && Clock::now() >= deadline) {
        throw CollectiveError("no progress while the NCCL communicator was closed");
      }
      std::this_thread::sleep_for(microseconds(200));
      code = library_.state(group);
    }
    check(code, group);
  }
  for (const int group : groups_) check(library_.destroy(group), group);
  end_freed();
}

// What the device still uses after a while is left to the end of the process.
void Worker::end_freed() {
  if (freed_.empty() || !wait_for(freed_.back().second->ready)) return;
  for (const auto& [data, events] : freed_) library_.free(data);
  freed_.clear();
}

// After a failure. Arrays stay until the device is done with them.
void Worker::end_groups() {
  registrations_.clear();  // they end with their groups
  for (const int group : groups_) library_.abort(group);
  std::deque<std::shared_ptr<Task>> over;  // whose arrays go without the mutex
  const bool done = wait_for_stream();
  const std::lock_guard lock(mutex_);
  over.swap(tasks_);
  if (!done) return;
  over.insert(over.end(), pending_.begin(), pending_.end());
  pending_.clear();
  over.push_back(std::move(current_));
  current_ = nullptr;
}

// False where the device is still at work after a while.
bool Worker::wait_for_stream() {
  try {
    const std::shared_ptr<Events> events = take_events();
    check(library_.record(events->end, library_.stream()));
    return wait_for(events->end);
  } catch (const CollectiveError&) {
    // The device itself has failed, and does nothing any more.
  }
  return true;
}

bool Worker::wait_for(Event event) {
  const Clock::time_point deadline = Clock::now() + kAbortWithin;
  while (!is_done(event)) {
    if (Clock::now() >= deadline) return false;
    std::this_thread::sleep_for(milliseconds(1));
  }
  return true;
}

void Worker::end() {
  const std::lock_guard lock(mutex_);
  has_ended_ = true;
  changed_.notify_all();
}

void Worker::note_progress() {
  advanced_ = Clock::now();
  nobody_is_late();
}

void Worker::nobody_is_late() {
  progress_.store(Clock::now().time_since_epoch().count(), std::memory_order_relaxed);
}

}  // namespace lockstep::nccl
