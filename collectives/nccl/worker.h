#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "lockstep/collectives/nccl/library.h"
#include "lockstep/collectives/nccl/staging.h"
#include "lockstep/collectives/work_state.h"

namespace lockstep::nccl {

struct Place {
  int rank = 0;
  int size = 1;
  Device device;
  Stream compute = nullptr;  // the device's compute stream
  // Gives the device back what is cached of its memory. Empty: nothing is.
  std::function<void()> trim = {};
};

// The thread that makes every call on the groups of one rank, the world and its splits, in the
// order of submission, on the one stream of its library: so the order is the same on all ranks,
// and no two collectives hold what the other needs. It looks at what is under way: it tells when a
// collective began and ended, lets go of arrays that the device is done with, and fails all that
// cannot succeed once one fails or is late; then the device is made to end what it was doing.
class Worker final : public Transport, public std::enable_shared_from_this<Worker> {
 public:
  // Returns when all ranks of the world have come; throws CollectiveError after `timeout` (zero:
  // never).
  static std::shared_ptr<Worker> start(Library& library, const UniqueId& id, const Place& place,
                                       std::chrono::milliseconds timeout);
  Worker(Library& library, const Place& place);

  void submit(int group, const std::shared_ptr<WorkState>& work);
  // `part` receives the group that the split makes.
  void submit_split(int group, int color, int key, const std::shared_ptr<WorkState>& work,
                    const std::shared_ptr<int>& part);

  // Memory of the device, registered with the group. Null: there is none of that kind.
  void* allocate(int group, size_t bytes);
  // When the compute stream is done with what it has been given so far, and nothing is under way.
  // From any thread.
  void free(void* data);

  // Fails everything started and to come on this rank. Never blocks.
  void abort(std::string_view reason);
  // Ends the thread: after what was started, or else after `timeout` without progress (zero:
  // never). Of use once.
  void close(std::chrono::milliseconds timeout);

  void wait(WorkState& work) override;
  Clock::time_point last_progress() const override;
  void give_up(WorkState& work, std::string_view reason) override;

 private:
  struct Events {
    Event ready = nullptr;  // on the compute stream: the input is there
    Event begin = nullptr;
    Event end = nullptr;
  };

  struct Task {
    int group = 0;
    std::shared_ptr<WorkState> work;  // null: nobody waits
    std::function<void()> call;       // instead of a collective, when all before it is over
    void* freed = nullptr;            // instead of both: memory of allocate()
    bool on_host = false;             // the arrays are, or there are none
    void* input = nullptr;
    void* output = nullptr;
    std::shared_ptr<Events> events;
    Event ready = nullptr;  // of the input
    std::optional<Staging::Passage> passage;
    bool begun = false;
    bool queued = false;  // guarded by the mutex: the stream has it, and `events->end`
  };

  void run(const UniqueId& id, const Place& place, std::chrono::milliseconds timeout);
  void join_world(const UniqueId& id, const Place& place, std::chrono::milliseconds timeout);
  std::shared_ptr<Task> next();
  void execute(Task& task);
  void call(Task& task);
  void drain();
  void launch(Task& task);
  void open_passage(Task& task);
  int issue(const Task& task, void* input, void* output);
  void settle(int group, int code);
  void look();
  void advance();
  void release_freed();
  void release(void* data);
  void end_freed();
  bool has_ended(Task& task);
  void check_deadline(const Task& task);
  void rest();
  void finalize();
  void end_groups();
  bool wait_for_stream();
  bool wait_for(Event event);
  void end();

  void push(std::shared_ptr<Task> task);
  std::shared_ptr<Task> find(const WorkState& work) const;
  std::shared_ptr<Events> take_events();
  bool is_done(Event event);
  void check(int code, int group = -1);
  void note_progress();   // something has advanced
  void nobody_is_late();  // deadlines count from now
  void fail_all(std::string_view reason);

  Library& library_;
  const Device device_;
  const Stream compute_;
  const std::function<void()> trim_;
  std::atomic<Clock::rep> progress_{0};

  // The thread's own.
  Staging staging_;
  std::vector<int> groups_;
  std::map<void*, std::pair<int, void*>> registrations_;  // by memory: group and registration
  // That the compute stream may still use.
  std::deque<std::pair<void*, std::shared_ptr<Events>>> freed_;
  Clock::time_point ask_again_{};
  Clock::time_point advanced_{};

  std::thread thread_;
  mutable std::mutex mutex_;
  std::condition_variable submitted_;  // for the thread
  std::condition_variable changed_;    // for all others
  std::deque<std::shared_ptr<Task>> tasks_;
  // Written by the thread alone, which reads them without the mutex.
  std::shared_ptr<Task> current_;
  std::deque<std::shared_ptr<Task>> pending_;  // on the stream
  std::vector<std::shared_ptr<Events>> events_;
  std::optional<std::string> broken_;
  std::chrono::milliseconds closing_timeout_{0};
  bool joined_ = false;
  bool closing_ = false;
  bool has_ended_ = false;
};

}  // namespace lockstep::nccl
