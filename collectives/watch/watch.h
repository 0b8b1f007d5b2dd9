#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include "lockstep/collectives/communicator.h"
#include "lockstep/collectives/store/store.h"
#include "lockstep/collectives/watch/beat.h"

namespace lockstep {

// Finds out who is at fault when a collective is late. Each rank says through the job's store what
// it is doing, on a thread of its own, so that a rank which is busy, stopped, dead or elsewhere is
// told apart. The first rank to know the culprit makes the verdict; all others learn of it at once:
// their collectives fail with one report, and `end_process` ends those that do not come to one.
// One a process (a thread that plays a rank), made and ended by all ranks; it must not outlive the
// communicator.
class Watch {
 public:
  using Milliseconds = std::chrono::milliseconds;

  struct Options {
    Milliseconds beat_every{500};
    std::string store_host = "the launcher";  // for the report when it is gone
    // From the verdict until `end_process` is called, unless the watch has ended by then.
    Milliseconds end_after{3000};
    // From a thread of the watch. Empty: nobody ends the process.
    std::function<void(const std::string& report)> end_process = {};
  };

  // `connect` makes a client of the job's store; it is called twice.
  Watch(Communicator& communicator, const std::function<std::unique_ptr<Store>()>& connect,
        Options options);
  Watch(Communicator& communicator, const std::function<std::unique_ptr<Store>()>& connect)
      : Watch(communicator, connect, Options()) {}
  // Leaves: the others do not take this rank for dead.
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  void set_step(int64_t step);

  // What this rank does while one lives. It is not late for `allowance` from its beginning; when a
  // phase that had one ends, the deadline of collectives begins anew.
  class Phase {
   public:
    Phase(Watch* watch, std::string_view name, Milliseconds allowance = {});
    ~Phase();
    Phase(const Phase&) = delete;
    Phase& operator=(const Phase&) = delete;

   private:
    friend class Watch;
    Watch* watch_;  // null: nobody watches
    std::string name_;
    std::chrono::steady_clock::time_point began_;
    Milliseconds allowance_;
    Phase* outer_ = nullptr;
  };

  // This rank fails, for this reason: the others learn of it.
  void fail(std::string_view reason);
  // Why the job has failed, once somebody knows.
  std::optional<std::string> verdict() const;

 private:
  using Clock = std::chrono::steady_clock;
  using Beats = std::map<int, Beat>;

  Beat current_beat();
  void beat_loop();
  void listen_loop();
  void conclude(const std::string& report);
  void lose_store(const absl::Status& status);
  std::string without_store(const absl::Status& status) const;
  std::optional<std::string> judge(const WorkState& work);
  std::string settle(const std::string& report);
  absl::StatusOr<Beats> read_beats();
  std::string describe(int rank, const Beats& beats) const;
  bool pause(Milliseconds duration);

  // What the communicator's handler holds: it may outlive the watch in works and splits.
  struct Handle {
    std::mutex mutex;
    Watch* watch;
  };

  Communicator& communicator_;
  const Options options_;
  std::shared_ptr<Handle> handle_;
  std::unique_ptr<Store> beats_;     // for short calls; its end is this rank's
  std::unique_ptr<Store> verdicts_;  // the listener waits in it

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool ending_ = false;
  int64_t beat_count_ = 0;
  int64_t step_ = 0;
  Phase* phase_ = nullptr;               // innermost
  Clock::time_point not_late_before_{};  // a deadline after the last phase with an allowance
  Clock::time_point idle_since_ = Clock::now();
  std::optional<std::string> verdict_;

  std::thread beater_;
  std::thread listener_;
};

}  // namespace lockstep
