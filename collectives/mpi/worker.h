#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "lockstep/collectives/mpi/host_reduce.h"
#include "lockstep/collectives/mpi/library.h"
#include "lockstep/collectives/mpi/pieces.h"
#include "lockstep/collectives/work_state.h"

namespace lockstep::mpi {

struct HostAllocation {
  std::shared_ptr<HostMemory> memory;  // null: none; `reason` as HostReduce gives it
  std::string reason;
};

// The thread that makes every MPI call of the process, from Init to Finalize, in the order of
// submission. MPI makes no progress of its own, and a call that its peers do not answer cannot be
// cancelled: after a failure the thread is left to itself, and the process must end by _exit.
class Worker final : public Transport, public std::enable_shared_from_this<Worker> {
 public:
  // Returns when MPI is initialised. Throws Error where it was before in this process, and
  // CollectiveError where that takes longer than `within` (zero: for ever): a rank has not come.
  static std::shared_ptr<Worker> start(Library& library, std::chrono::milliseconds within = {});

  explicit Worker(Library& library) : library_(library), pieces_(library) {}

  int rank() const { return rank_; }  // in MPI_COMM_WORLD
  int size() const { return size_; }

  // Runs the collective on `group`. `part` receives the group that a split makes.
  void submit(int group, const std::shared_ptr<WorkState>& work);
  void submit_split(int group, int color, int key, const std::shared_ptr<WorkState>& work,
                    const std::shared_ptr<int>& part);

  // Memory of the world's ranks that they reduce through directly, where they can share any.
  void submit_allocation(size_t bytes, const std::shared_ptr<WorkState>& work,
                         const std::shared_ptr<HostAllocation>& allocation);

  // Fails everything started and to come on this rank. Never blocks on MPI.
  void abort(std::string_view reason);

  // Finishes what was started, calls Finalize and ends the thread; gives up after `timeout` without
  // progress (zero: never). Does none of it after a failure.
  void close(std::chrono::milliseconds timeout);

  Clock::time_point last_progress() const override;
  void give_up(WorkState& work, std::string_view reason) override;

 private:
  struct Task {
    std::shared_ptr<WorkState> work;
    std::function<void()> call;
  };

  void push(std::shared_ptr<WorkState> work, std::function<void()> call);
  void run(std::promise<void> initialized);
  void initialize();
  std::optional<Task> next();
  void execute(const Task& task);
  void finish();
  void note_progress();
  void fail_all(std::string_view reason);
  void abandon_start(std::string_view reason);

  Library& library_;
  // The thread's own.
  Pieces pieces_;
  std::unique_ptr<HostReduce> host_;  // from the first allocation on

  int rank_ = 0;
  int size_ = 1;
  std::thread thread_;
  std::atomic<Clock::rep> progress_{0};

  std::mutex mutex_;
  std::condition_variable submitted_;
  std::condition_variable ended_;
  std::deque<Task> tasks_;
  std::shared_ptr<WorkState> current_;
  std::optional<std::string> broken_;
  bool closing_ = false;
  bool has_ended_ = false;
};

}  // namespace lockstep::mpi
