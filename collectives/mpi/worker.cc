#include "lockstep/collectives/mpi/worker.h"

#include <algorithm>
#include <utility>

namespace lockstep::mpi {

namespace {

// Time in which this process stood still hardly counts: the others may have come meanwhile.
bool is_ready(const std::future<void>& ready, std::chrono::milliseconds within) {
  using std::chrono::milliseconds;
  constexpr milliseconds kLongestWait(500);
  if (within == within.zero()) return ready.wait(), true;
  while (within.count() > 0) {
    const milliseconds part = std::min(within, kLongestWait);
    const auto before = std::chrono::steady_clock::now();
    if (ready.wait_for(part) == std::future_status::ready) return true;
    const auto waited = std::chrono::steady_clock::now() - before;
    within -= std::min(2 * part, std::chrono::ceil<milliseconds>(waited));
  }
  return false;
}

}  // namespace

std::shared_ptr<Worker> Worker::start(Library& library, std::chrono::milliseconds within) {
  auto worker = std::make_shared<Worker>(library);
  std::promise<void> initialized;
  std::future<void> ready = initialized.get_future();
  // The thread holds the worker: it may outlive everybody else after a failure.
  worker->thread_ = std::thread(
      [worker, promise = std::move(initialized)]() mutable { worker->run(std::move(promise)); });
  if (!is_ready(ready, within)) {
    const std::string reason =
        concat({"MPI has not started within ", within.count(),
                " ms: a rank has not come to its start; it is late, stopped or gone"});
    worker->abandon_start(reason);
    throw CollectiveError(reason);
  }
  try {
    ready.get();
  } catch (...) {
    worker->thread_.join();
    throw;
  }
  return worker;
}

void Worker::run(std::promise<void> initialized) {
  try {
    initialize();
  } catch (...) {
    return initialized.set_exception(std::current_exception());
  }
  note_progress();
  initialized.set_value();
  while (const std::optional<Task> task = next()) execute(*task);
  finish();
}

// The thread ends when Init does, if ever.
void Worker::abandon_start(std::string_view reason) {
  {
    const std::lock_guard lock(mutex_);
    fail_all(reason);
    closing_ = true;
  }
  thread_.detach();
}

void Worker::initialize() {
  LOCKSTEP_CHECK(!library_.initialized(),
                 "MPI is initialised already: a process makes one MPI communicator, once");
  const int code = library_.init();
  LOCKSTEP_CHECK(code == 0, "MPI cannot be initialised: error ", code);
  rank_ = library_.rank(0);
  size_ = library_.size(0);
}

std::optional<Worker::Task> Worker::next() {
  std::unique_lock lock(mutex_);
  current_ = nullptr;
  submitted_.wait(lock, [&] { return !tasks_.empty() || closing_; });
  if (tasks_.empty()) return std::nullopt;
  Task task = std::move(tasks_.front());
  tasks_.pop_front();
  current_ = task.work;
  return task;
}

void Worker::execute(const Task& task) {
  note_progress();
  task.work->begin();
  try {
    task.call();
    task.work->finish();
  } catch (const std::exception& error) {
    abort(error.what());
  }
  note_progress();
}

void Worker::finish() {
  bool broken = false;
  {
    const std::lock_guard lock(mutex_);
    broken = broken_.has_value();
  }
  if (!broken) library_.finalize();
  const std::lock_guard lock(mutex_);
  has_ended_ = true;
  ended_.notify_all();
}

void Worker::submit(int group, const std::shared_ptr<WorkState>& work) {
  push(work, [this, group, state = work.get()] {
    pieces_.run(group, *state, [this, state] {
      note_progress();
      return !state->done();  // done already: it failed meanwhile, and its arrays are others' now
    });
  });
}

void Worker::submit_split(int group, int color, int key, const std::shared_ptr<WorkState>& work,
                          const std::shared_ptr<int>& part) {
  push(work, [this, group, color, key, part, state = work.get()] {
    pieces_.agree(group, *state);
    pieces_.check(library_.split(group, color, key, part.get()));
  });
}

void Worker::submit_allocation(size_t bytes, const std::shared_ptr<WorkState>& work,
                               const std::shared_ptr<HostAllocation>& allocation) {
  push(work, [this, bytes, allocation, state = work.get()] {
    pieces_.agree(0, *state);
    if (!host_) {
      host_ = std::make_unique<HostReduce>(library_, 0, rank_, size_);
      pieces_.set_host(host_.get());
    }
    allocation->memory = host_->allocate(bytes, &allocation->reason);
  });
}

void Worker::push(std::shared_ptr<WorkState> work, std::function<void()> call) {
  work->transport = shared_from_this();
  const std::lock_guard lock(mutex_);
  if (broken_) return work->fail(*broken_);
  if (closing_) return work->fail("the MPI communicator has been closed");
  tasks_.push_back({std::move(work), std::move(call)});
  submitted_.notify_one();
}

void Worker::abort(std::string_view reason) {
  const std::lock_guard lock(mutex_);
  fail_all(reason);
}

void Worker::fail_all(std::string_view reason) {
  if (!broken_) broken_ = reason;
  if (current_ != nullptr) current_->fail(*broken_);
  for (const Task& task : tasks_) task.work->fail(*broken_);
  tasks_.clear();
}

void Worker::note_progress() {
  progress_.store(Clock::now().time_since_epoch().count(), std::memory_order_relaxed);
}

Transport::Clock::time_point Worker::last_progress() const {
  return Clock::time_point(Clock::duration(progress_.load(std::memory_order_relaxed)));
}

void Worker::give_up(WorkState& work, std::string_view reason) {
  const std::lock_guard lock(mutex_);
  if (work.done() || Clock::now() < last_progress() + work.timeout) return;
  const WorkState& blocked = current_ == nullptr ? work : *current_;
  fail_all(concat({"no progress for ", work.timeout.count(), " ms in ", name_of(blocked.collective),
                   " #", blocked.sequence, "; ",
                   reason.empty() ? "a rank is late or gone, or made another call" : reason}));
}

void Worker::close(std::chrono::milliseconds timeout) {
  const Clock::time_point entered = Clock::now();
  std::unique_lock lock(mutex_);
  closing_ = true;
  submitted_.notify_one();
  while (!has_ended_ && !broken_) {
    if (timeout == timeout.zero()) {
      ended_.wait(lock);
    } else if (const auto deadline = std::max(entered, last_progress()) + timeout;
               Clock::now() < deadline) {
      ended_.wait_until(lock, deadline);
    } else {
      fail_all("no progress while the MPI communicator was closed");
    }
  }
  const bool ended = has_ended_;
  lock.unlock();
  if (ended) {
    thread_.join();
  } else {
    thread_.detach();
  }
}

}  // namespace lockstep::mpi
