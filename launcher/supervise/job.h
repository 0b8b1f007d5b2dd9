#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <vector>

#include "lockstep/launcher/supervise/rank_output.h"

namespace lockstep::supervise {

// Watches a job that runs until it has ended: passes its output on and hands it requests to stop.
//
// SIGTERM, SIGINT, SIGUSR1 and SIGHUP to this process become one SIGUSR1 to the job, which mpirun
// forwards to its ranks at once (a SIGTERM would make it kill them). The ranks then have `grace` to
// save; a second signal, or the end of that time, kills them. SIGHUP is no second signal, because a
// terminal that closes may send two; where it was ignored (nohup) it still is.
class Job {
 public:
  // Blocks the signals above and SIGCHLD in this thread: to be called before a Job is made or
  // started, and before whatever is made for it.
  static void hold_signals();

  Job(std::chrono::milliseconds grace, RankOutput& output);
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;
  ~Job();

  // Ranks that come to life put their process ids into the pipe that is read at `started_end`.
  // Until so many have, a request to stop waits, because mpirun would forward it to nobody; and
  // then for up to 2 s (half of the grace time, if less) until their programs have seen to SIGUSR1.
  void expect(int ranks, int started_end);
  int started() const { return started_; }
  bool was_killed() const { return forced_code_.has_value(); }

  // Returns the job's exit code, 128 + N if signal N killed it. No process of it is left then, and
  // its output is written. After a request to stop, that ends when nobody reads for 2 s.
  // `is_rank`: the child is the only rank itself, not an mpirun that has them.
  int watch(pid_t child, bool is_rank);
  // Then: writes what was said since, and how much had to be dropped.
  void finish_output();

 private:
  using Clock = std::chrono::steady_clock;

  void wait_for_news() const;
  void read_signals();
  void reap();
  void count_started();
  void request_stop(int signal);
  bool ranks_are_ready();
  void pass_request_on();
  void kill_ranks(int exit_code);
  void check_deadline();
  void write_out();

  std::chrono::milliseconds grace_;
  RankOutput& output_;
  int signals_ = -1;  // a signalfd
  pid_t child_ = -1;
  bool is_rank_ = false;
  bool stopping_ = false;
  bool request_waits_ = false;
  bool gives_up_output_ = false;
  int expected_ = 0;
  int started_ = 0;
  int started_end_ = -1;
  std::vector<pid_t> unready_;      // ranks not yet known to have seen to SIGUSR1
  std::optional<int> forced_code_;  // the ranks were killed by us
  // Of the grace time; then of mpirun's own end; then of the output.
  std::optional<Clock::time_point> deadline_;
  std::optional<Clock::time_point> ready_by_;  // a request waits no longer for the ranks
  std::optional<int> exit_code_;
};

}  // namespace lockstep::supervise
