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
#include <vector>

#include "lockstep/collectives/communicator.h"
#include "lockstep/collectives/store/store.h"
#include "lockstep/collectives/watch/beat.h"

namespace lockstep {

// Finds out who is at fault when a collective is late. Each rank says through the job's store what
// its communicator's activity is, on a thread of its own, so that a rank which is busy, stopped,
// dead or elsewhere is told apart. The first rank to know the culprit makes the verdict; all others
// learn of it at once: their collectives fail with one report, and `end_process` ends those that do
// not come to one. One a process (a thread that plays a rank), made and ended by all ranks; it must
// not outlive the communicator.
class Watch {
 public:
  using Milliseconds = std::chrono::milliseconds;

  // A rank that sends no beat for the time of so many, once a collective is late, is condemned.
  static constexpr int kBeatsToJudge = 6;

  struct Options {
    std::string job = "job";  // its keys in the store begin so
    Milliseconds beat_every{500};
    // A change of phase is told after so long at most: what a rank that dies was doing is known.
    Milliseconds tell_changes_every{50};
    std::optional<int> store_host;  // the rank; none: the launcher
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

  // The job fails, for this reason, unless there is a verdict already: the others learn of it.
  void fail(const std::string& reason);
  // Why the job has failed, once somebody knows.
  std::optional<std::string> verdict() const;

 private:
  using Clock = std::chrono::steady_clock;
  using Beats = std::map<int, Beat>;

  Beat current_beat();
  void beat_loop();
  std::string beat_key(int rank) const;
  absl::Status hear_host();
  void listen_loop();
  void conclude(const std::string& report);
  void lose_store(const absl::Status& status);
  std::string without_store(const absl::Status& status) const;
  std::optional<std::string> judge(const WorkState& work);
  std::vector<int> silent_ranks(const Beats& before, const Beats& now) const;
  bool is_behind(const WorkState& work, int rank, const Beat& beat) const;
  bool is_allowed(const WorkState& work, const Beats& beats) const;
  std::vector<int> most_behind(const WorkState& work, const Beats& beats) const;
  bool is_stuck(const WorkState& work, int rank, const Beat& beat) const;
  std::vector<int> furthest_back(const WorkState& work, const Beats& beats) const;
  bool compares_calls(const WorkState& work) const;
  void tell_calls(const WorkState& work);
  std::string different_calls(const Beats& beats);
  std::string calls_key() const;
  std::optional<std::string> settle(const WorkState& work, const std::string& finding);
  absl::StatusOr<Beats> read_beats();
  std::string describe(int rank, const Beats& beats) const;
  std::string describe(const std::vector<int>& ranks, const Beats& beats) const;
  bool pause(Milliseconds duration, bool for_verdict = false);

  // What the communicator's handler holds: it may outlive the watch in works and splits.
  struct Handle {
    std::mutex mutex;
    Watch* watch;
  };

  Communicator& communicator_;
  const Options options_;
  const std::string verdict_key_;
  std::shared_ptr<Handle> handle_;
  std::unique_ptr<Store> beats_;     // for short calls; its end is this rank's
  std::unique_ptr<Store> verdicts_;  // the listener waits in it

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool ending_ = false;
  int64_t beat_count_ = 0;
  Beats host_beat_;  // the last of the rank that hosts the store
  std::optional<std::string> verdict_;

  std::thread beater_;
  std::thread listener_;
};

}  // namespace lockstep
