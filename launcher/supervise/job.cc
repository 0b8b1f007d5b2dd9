#include "lockstep/launcher/supervise/job.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>

#include "lockstep/launcher/supervise/child.h"

namespace lockstep::supervise {
namespace {

using std::chrono::milliseconds;

// mpirun takes up to two seconds to notice that its ranks were killed and to clear its files away.
constexpr std::chrono::seconds kTidyTime{5};
// For programs that have just begun to see to SIGUSR1.
constexpr std::chrono::seconds kReadyTime{2};
constexpr milliseconds kReadyPoll{5};
// For whoever reads the output of a job that was to stop.
constexpr std::chrono::seconds kReaderTime{2};

sigset_t watched_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1, SIGCHLD}) sigaddset(&set, signal);
  struct sigaction hangup = {};
  ::sigaction(SIGHUP, nullptr, &hangup);
  if (hangup.sa_handler != SIG_IGN) sigaddset(&set, SIGHUP);
  return set;
}

}  // namespace

void Job::hold_signals() {
  const sigset_t set = watched_signals();
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
}

Job::Job(milliseconds grace, RankOutput& output) : grace_(grace), output_(output) {
  const sigset_t set = watched_signals();
  ::signal(SIGPIPE, SIG_IGN);
  signals_ = ::signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
  adopt_orphans();
}

Job::~Job() { ::close(signals_); }

void Job::expect(int ranks, int started_end) {
  expected_ = ranks;
  started_end_ = started_end;
}

int Job::watch(pid_t child, bool is_rank) {
  child_ = child;
  is_rank_ = is_rank;
  if (is_rank) unready_ = {child};
  while (!exit_code_) {
    wait_for_news();
    output_.pump();
    output_.flush();
    read_signals();
    count_started();
    pass_request_on();
    check_deadline();
  }
  kill_descendants(-1);
  deadline_.reset();
  ready_by_.reset();
  write_out();
  output_.end_lines();
  write_out();
  return forced_code_.value_or(*exit_code_);
}

void Job::finish_output() {
  write_out();
  if (output_.dropped_bytes() == 0) return;
  output_.say("nobody read " + std::to_string(output_.dropped_bytes()) +
              " bytes of output: dropped");
  write_out();
}

void Job::write_out() {
  for (;;) {
    const bool read = output_.pump(), written = output_.flush();
    if (!read && !output_.pending()) return;
    if (stopping_ && (written || !deadline_)) deadline_ = Clock::now() + kReaderTime;
    if (gives_up_output_ || (deadline_ && Clock::now() >= *deadline_)) {
      return output_.drop_pending();
    }
    wait_for_news();
    read_signals();
  }
}

void Job::wait_for_news() const {
  std::vector<pollfd> ends = output_.awaited();
  ends.push_back({signals_, POLLIN, 0});
  if (started_ < expected_) ends.push_back({started_end_, POLLIN, 0});
  int timeout = -1;
  if (deadline_) {
    const auto left = std::chrono::ceil<milliseconds>(*deadline_ - Clock::now());
    timeout = static_cast<int>(std::clamp<int64_t>(left.count(), 0, 1'000'000));
  }
  if (ready_by_) {
    const auto next = static_cast<int>(kReadyPoll.count());
    timeout = timeout < 0 ? next : std::min(timeout, next);
  }
  ::poll(ends.data(), ends.size(), timeout);
}

void Job::read_signals() {
  signalfd_siginfo info;
  while (::read(signals_, &info, sizeof info) == sizeof info) {
    const int signal = static_cast<int>(info.ssi_signo);
    if (signal == SIGCHLD) {
      reap();
    } else {
      request_stop(signal);
    }
  }
}

void Job::reap() {
  int status = 0;
  for (pid_t ended; (ended = ::waitpid(-1, &status, WNOHANG)) > 0;) {
    if (ended == child_) {
      exit_code_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    }
  }
}

void Job::request_stop(int signal) {
  if (stopping_ && signal == SIGHUP) return;
  if (stopping_ && exit_code_) gives_up_output_ = true;
  if (stopping_) return kill_ranks(128 + signal);
  stopping_ = true;
  output_.never_wait();
  if (exit_code_) return;
  char grace[32];
  std::snprintf(grace, sizeof grace, "%.3g", std::chrono::duration<double>(grace_).count());
  output_.say(std::string(::strsignal(signal)) + ": asked the ranks to save and stop, within " +
              grace + " s (a second signal kills them)");
  deadline_ = Clock::now() + grace_;
  request_waits_ = true;
}

void Job::count_started() {
  if (started_ == expected_) return;
  pid_t ranks[1024];
  const ssize_t bytes = ::read(started_end_, ranks, sizeof ranks);
  if (bytes <= 0) return;
  const size_t count = static_cast<size_t>(bytes) / sizeof ranks[0];
  unready_.insert(unready_.end(), ranks, ranks + count);
  started_ += static_cast<int>(count);
}

bool Job::ranks_are_ready() {
  std::erase_if(unready_, [](pid_t rank) { return has_seen_to(SIGUSR1, rank); });
  return unready_.empty();
}

void Job::pass_request_on() {
  if (!request_waits_ || started_ < expected_ || exit_code_ || forced_code_) return;
  if (!ready_by_) ready_by_ = Clock::now() + std::min<milliseconds>(kReadyTime, grace_ / 2);
  if (!ranks_are_ready() && Clock::now() < *ready_by_) return;
  request_waits_ = false;
  ready_by_.reset();
  ::kill(child_, SIGUSR1);
}

void Job::kill_ranks(int exit_code) {
  if (forced_code_ || exit_code_) return;
  forced_code_ = exit_code;
  ready_by_.reset();
  deadline_ = Clock::now() + kTidyTime;
  // An mpirun that is about to start ranks would go on.
  kill_descendants(started_ < expected_ ? -1 : child_);
  if (is_rank_) ::kill(child_, SIGKILL);
}

void Job::check_deadline() {
  if (!deadline_ || Clock::now() < *deadline_) return;
  if (forced_code_) {
    kill_descendants(-1);
    deadline_.reset();
    return;
  }
  output_.say("the ranks did not stop in time: killed");
  kill_ranks(128 + SIGKILL);
}

}  // namespace lockstep::supervise
