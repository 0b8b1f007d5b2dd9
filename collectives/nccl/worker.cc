#include "lockstep/collectives/nccl/worker.h"

#include <algorithm>
#include <utility>

#include "lockstep/runtime/backend.h"

namespace lockstep::nccl {

using std::chrono::microseconds;
using std::chrono::milliseconds;

Worker::Worker(Library& library, const Place& place)
    : library_(library),
      device_(place.device),
      compute_(place.compute),
      trim_(place.trim),
      staging_(library) {}

std::shared_ptr<Worker> Worker::start(Library& library, const UniqueId& id, const Place& place,
                                      milliseconds timeout) {
  auto worker = std::make_shared<Worker>(library, place);
  // The thread holds the worker: it may outlive everybody else after a failure.
  worker->thread_ = std::thread([worker, id, place, timeout] { worker->run(id, place, timeout); });
  std::unique_lock lock(worker->mutex_);
  worker->changed_.wait(lock, [&] { return worker->joined_ || worker->has_ended_; });
  if (worker->joined_) return worker;
  const std::string reason = worker->broken_.value_or("");
  lock.unlock();
  worker->thread_.join();
  throw CollectiveError(reason);
}

void Worker::submit(int group, const std::shared_ptr<WorkState>& work) {
  work->transport = shared_from_this();
  auto task = std::make_shared<Task>();
  task->group = group;
  task->work = work;
  task->on_host = !work->output || work->output.device() != device_;
  if (work->output) {
    task->input = work->input.data();
    task->output = work->output.data();
  }
  try {
    task->events = take_events();
    const Event known = work->ready ? work->ready->event() : nullptr;
    task->ready = known != nullptr ? known : task->events->ready;
    if (!task->on_host && known == nullptr) check(library_.record(task->ready, compute_));
  } catch (const CollectiveError& error) {
    abort(error.what());
  }
  push(std::move(task));
}

void Worker::submit_split(int group, int color, int key, const std::shared_ptr<WorkState>& work,
                          const std::shared_ptr<int>& part) {
  work->transport = shared_from_this();
  auto task = std::make_shared<Task>();
  task->group = group;
  task->work = work;
  task->on_host = true;
  task->call = [this, group, color, key, part] {
    const int code = library_.split(group, color, key, part.get());
    if (code == 0 || code == Library::kInProgress) groups_.push_back(*part);
    settle(group, code);
    settle(*part, library_.state(*part));
  };
  push(std::move(task));
}

void* Worker::allocate(int group, size_t bytes) {
  void* data = nullptr;
  if (library_.allocate(bytes, &data) != 0) return nullptr;
  auto task = std::make_shared<Task>();
  task->group = group;
  task->call = [this, group, data, bytes] {
    void* registration = nullptr;
    int code = library_.enroll(group, data, bytes, &registration);
    settle(group, code == Library::kInProgress ? code : 0);
    if (code == 0 || code == Library::kInProgress) registrations_[data] = {group, registration};
  };
  push(std::move(task));
  return data;
}

void Worker::free(void* data) {
  auto task = std::make_shared<Task>();
  try {
    task->events = take_events();
    check(library_.record(task->events->ready, compute_));
  } catch (const CollectiveError&) {
    return;  // the device has failed: its memory is of no use to anybody
  }
  task->freed = data;
  bool broken = false;
  {
    std::unique_lock lock(mutex_);
    if (!broken_ && !closing_) {
      tasks_.push_back(std::move(task));
      submitted_.notify_one();
      return;
    }
    if (std::this_thread::get_id() == thread_.get_id()) {
      freed_.emplace_back(data, task->events);
      return;
    }
    changed_.wait(lock, [&] { return has_ended_; });
    broken = broken_.has_value();
  }
  try {
    // After a failure the device may never come so far.
    if (broken && !wait_for(task->events->ready)) return;
    while (!is_done(task->events->ready)) std::this_thread::sleep_for(microseconds(100));
    library_.free(data);
  } catch (const CollectiveError&) {
  }
}

void Worker::push(std::shared_ptr<Task> task) {
  const std::lock_guard lock(mutex_);
  if (!broken_ && !closing_) {
    tasks_.push_back(std::move(task));
    submitted_.notify_one();
    return;
  }
  if (task->work) task->work->fail(broken_.value_or("the NCCL communicator has been closed"));
}

void Worker::wait(WorkState& work) {
  std::shared_ptr<Task> task;
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] {
      if (work.done()) return true;
      task = find(work);
      return task != nullptr && task->queued && !task->on_host;
    });
    if (work.done()) return;
  }
  check(library_.wait(compute_, task->events->end));
}

std::shared_ptr<Worker::Task> Worker::find(const WorkState& work) const {
  const auto is_of_work = [&](const auto& task) { return task->work.get() == &work; };
  for (const auto* tasks : {&pending_, &tasks_}) {
    const auto found = std::find_if(tasks->begin(), tasks->end(), is_of_work);
    if (found != tasks->end()) return *found;
  }
  return nullptr;
}

// That nobody else uses: who waits for them holds them.
std::shared_ptr<Worker::Events> Worker::take_events() {
  const std::lock_guard lock(mutex_);
  for (const auto& events : events_) {
    if (events.use_count() == 1) return events;
  }
  auto events = std::make_shared<Events>();
  for (Event* event : {&events->ready, &events->begin, &events->end}) {
    check(library_.make_event(event));
  }
  return events_.emplace_back(std::move(events));
}

bool Worker::is_done(Event event) {
  bool done = false;
  check(library_.query(event, &done));
  return done;
}

void Worker::check(int code, int group) {
  if (code == 0) return;
  char text[1024] = {};
  library_.error_text(code, group, text, sizeof text);
  throw CollectiveError(text);
}

void Worker::abort(std::string_view reason) {
  const std::lock_guard lock(mutex_);
  fail_all(reason);
}

void Worker::fail_all(std::string_view reason) {
  if (!broken_) broken_ = reason;
  if (current_ != nullptr && current_->work) current_->work->fail(*broken_);
  for (const auto* tasks : {&pending_, &tasks_}) {
    for (const auto& task : *tasks) {
      if (task->work) task->work->fail(*broken_);
    }
  }
  submitted_.notify_all();
  changed_.notify_all();
}

Transport::Clock::time_point Worker::last_progress() const {
  return Clock::time_point(Clock::duration(progress_.load(std::memory_order_relaxed)));
}

void Worker::close(milliseconds timeout) {
  std::unique_lock lock(mutex_);
  closing_ = true;
  closing_timeout_ = timeout;
  submitted_.notify_all();
  changed_.wait(lock, [&] { return has_ended_; });
  lock.unlock();
  thread_.join();
}

}  // namespace lockstep::nccl
