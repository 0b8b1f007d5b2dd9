#include "lockstep/launcher/train/signals.h"

#include <unistd.h>

namespace lockstep::train {
namespace {

constexpr std::array kSignals = {SIGTERM, SIGINT, SIGUSR1};

// A signal handler can reach nothing but a global; this is the process's one.
volatile std::sig_atomic_t requested_signal = 0;

void on_signal(int signal) {
  if (requested_signal != 0) _exit(128 + signal);
  requested_signal = signal;
}

void terminate_late(int) { alarm(1); }

void terminate_now(int) { _exit(128 + SIGTERM); }

struct sigaction install(int signal, void (*handler)(int)) {
  struct sigaction action = {}, before = {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(signal, &action, &before);
  return before;
}

}  // namespace

StopSignals::StopSignals() {
  requested_signal = 0;
  for (size_t i = 0; i < kSignals.size(); ++i) before_[i] = install(kSignals[i], on_signal);
}

StopSignals::~StopSignals() {
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before_[i], nullptr);
}

std::optional<int> StopSignals::requested() const {
  const int signal = requested_signal;
  return signal != 0 ? std::optional(signal) : std::nullopt;
}

DelayedTermination::DelayedTermination() {
  install(SIGALRM, terminate_now);
  before_ = install(SIGTERM, terminate_late);
}

DelayedTermination::~DelayedTermination() { sigaction(SIGTERM, &before_, nullptr); }

}  // namespace lockstep::train
