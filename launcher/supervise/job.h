#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>

#include "lockstep/launcher/supervise/rank_output.h"

namespace lockstep::supervise {

// Watches a job that runs until it has ended: passes its output on and hands it requests to stop.
//
// SIGTERM, SIGINT and SIGUSR1 to this process become one SIGUSR1 to the job, which mpirun forwards
// to its ranks at once (a SIGTERM would make it kill them). The ranks then have `grace` to save; a
// second signal, or the end of that time, kills them.
class Job {
 public:
  // Blocks the signals above and SIGCHLD in this thread: call it before the job is started.
  explicit Job(std::chrono::milliseconds grace);
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;
  ~Job();

  // Ranks that come to life put one byte each into the pipe that is read at `started_end`: until so
  // many have, a request to stop waits, because mpirun would forward it to nobody.
  void expect(int ranks, int started_end);
  int started() const { return started_; }

  // Returns the job's exit code, 128 + N if signal N killed it. No process of it is left then.
  // `is_rank`: the child is the only rank itself, not an mpirun that has them.
  int watch(pid_t child, bool is_rank, RankOutput& output);

 private:
  using Clock = std::chrono::steady_clock;

  void wait_for_news(const RankOutput& output) const;
  void read_signals();
  void reap();
  void count_started();
  void request_stop(int signal);
  void pass_request_on();
  void kill_ranks(int exit_code);
  void check_deadline();

  std::chrono::milliseconds grace_;
  int signals_ = -1;  // a signalfd
  pid_t child_ = -1;
  bool is_rank_ = false;
  bool stopping_ = false;
  bool request_waits_ = false;
  int expected_ = 0;
  int started_ = 0;
  int started_end_ = -1;
  std::optional<int> forced_code_;             // the ranks were killed by us
  std::optional<Clock::time_point> deadline_;  // of the grace time; then of mpirun's own end
  std::optional<int> exit_code_;
};

}  // namespace lockstep::supervise
