#include "lockstep/launcher/supervise/job.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "lockstep/launcher/supervise/child.h"

namespace lockstep::supervise {
namespace {

// mpirun takes up to two seconds to notice that its ranks were killed and to clear its files away.
constexpr std::chrono::seconds kTidyTime{5};

}  // namespace

Job::Job(std::chrono::milliseconds grace) : grace_(grace) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1, SIGCHLD}) sigaddset(&set, signal);
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  signals_ = ::signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
  adopt_orphans();
}

Job::~Job() { ::close(signals_); }

void Job::expect(int ranks, int started_end) {
  expected_ = ranks;
  started_end_ = started_end;
}

int Job::watch(pid_t child, bool is_rank, RankOutput& output) {
  child_ = child;
  is_rank_ = is_rank;
  while (!exit_code_) {
    wait_for_news(output);
    output.pump();
    read_signals();
    count_started();
    pass_request_on();
    check_deadline();
  }
  kill_descendants(-1);
  output.finish();
  return forced_code_.value_or(*exit_code_);
}

void Job::wait_for_news(const RankOutput& output) const {
  std::vector<pollfd> ends = {{signals_, POLLIN, 0}};
  for (const int end : output.read_ends()) ends.push_back({end, POLLIN, 0});
  if (started_ < expected_) ends.push_back({started_end_, POLLIN, 0});
  int timeout = -1;
  if (deadline_) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*deadline_ - Clock::now());
    timeout = static_cast<int>(std::clamp<int64_t>(left.count(), 0, 1'000'000));
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
  if (stopping_) return kill_ranks(128 + signal);
  stopping_ = true;
  std::fprintf(stderr,
               "lockstep run: %s: asked the ranks to save and stop, within %.3g s (a second "
               "signal kills them)\n",
               ::strsignal(signal), std::chrono::duration<double>(grace_).count());
  deadline_ = Clock::now() + grace_;
  request_waits_ = true;
}

void Job::count_started() {
  char bytes[4096];
  if (started_ < expected_) {
    started_ += static_cast<int>(std::max<ssize_t>(::read(started_end_, bytes, sizeof bytes), 0));
  }
}

void Job::pass_request_on() {
  if (!request_waits_ || started_ < expected_ || exit_code_) return;
  request_waits_ = false;
  ::kill(child_, SIGUSR1);
}

void Job::kill_ranks(int exit_code) {
  if (forced_code_) return;
  forced_code_ = exit_code;
  deadline_ = Clock::now() + kTidyTime;
  kill_descendants(child_);
  if (is_rank_) ::kill(child_, SIGKILL);
}

void Job::check_deadline() {
  if (!deadline_ || Clock::now() < *deadline_) return;
  if (forced_code_) {
    kill_descendants(-1);
    deadline_.reset();
    return;
  }
  std::fprintf(stderr, "lockstep run: the ranks did not stop in time: killed\n");
  kill_ranks(128 + SIGKILL);
}

}  // namespace lockstep::supervise
