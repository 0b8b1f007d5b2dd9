#include "lockstep/launcher/train/signals.h"

#include <unistd.h>
#include <csignal>

namespace lockstep::train {
namespace {

constexpr int kSignals[] = {SIGTERM, SIGINT, SIGUSR1};

// A signal handler can reach nothing but a global; this is the process's one.
volatile std::sig_atomic_t requested_signal = 0;

void on_signal(int signal) {
  if (requested_signal != 0) _exit(128 + signal);
  requested_signal = signal;
}

void install(void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (int signal : kSignals) sigaction(signal, &action, nullptr);
}

}  // namespace

StopSignals::StopSignals() {
  requested_signal = 0;
  install(on_signal);
}

StopSignals::~StopSignals() { install(SIG_DFL); }

std::optional<int> StopSignals::requested() const {
  const int signal = requested_signal;
  return signal != 0 ? std::optional(signal) : std::nullopt;
}

}  // namespace lockstep::train
