#include "lockstep/launcher/train/signals.h"

#include <unistd.h>

namespace lockstep::train {
namespace {

constexpr std::array kSignals = {SIGTERM, SIGINT, SIGUSR1};

// A signal handler can reach nothing but globals; these are the process's.
volatile std::sig_atomic_t requested_signal = 0;
volatile std::sig_atomic_t termination_is_delayed = 0;
volatile std::sig_atomic_t terminates = 0;

void terminate_late(int) {
  terminates = 1;
  alarm(1);
}

void on_signal(int signal) {
  if (requested_signal == 0) {
    requested_signal = signal;
  } else if (signal == SIGTERM && termination_is_delayed != 0 && terminates == 0) {
    terminate_late(signal);
  } else {
    _exit(128 + signal);
  }
}

void terminate_now(int) { _exit(128 + SIGTERM); }

// oneDNN's matrix products use the stack pointer for something else: a handler on the stack of the
// thread it interrupts would write into the heap. Signals to a process go to its main thread.
alignas(64) char handlers_stack[64 * 1024];

struct sigaction install(int signal, void (*handler)(int)) {
  stack_t stack = {};
  if (sigaltstack(nullptr, &stack) == 0 && (stack.ss_flags & SS_DISABLE) != 0) {
    stack = {.ss_sp = handlers_stack, .ss_flags = 0, .ss_size = sizeof handlers_stack};
    sigaltstack(&stack, nullptr);
  }
  struct sigaction action = {}, before = {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  sigaction(signal, &action, &before);
  return before;
}

// Whether they were blocked before.
bool mask_stop_requests(int how) {
  sigset_t requests, before;
  sigemptyset(&requests);
  sigaddset(&requests, SIGUSR1);
  pthread_sigmask(how, &requests, &before);
  return sigismember(&before, SIGUSR1) == 1;
}

}  // namespace

void hold_stop_requests() { mask_stop_requests(SIG_BLOCK); }
void release_stop_requests() { mask_stop_requests(SIG_UNBLOCK); }

StopSignals::StopSignals() {
  requested_signal = 0;
  for (size_t i = 0; i < kSignals.size(); ++i) before_[i] = install(kSignals[i], on_signal);
  were_held_ = mask_stop_requests(SIG_UNBLOCK);
}

StopSignals::~StopSignals() {
  if (were_held_) mask_stop_requests(SIG_BLOCK);  // there is nothing to stop any more
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before_[i], nullptr);
}

std::optional<int> StopSignals::requested() const {
  const int signal = requested_signal;
  return signal != 0 ? std::optional(signal) : std::nullopt;
}

DelayedTermination::DelayedTermination() {
  termination_is_delayed = 1;
  terminates = 0;
  install(SIGALRM, terminate_now);
  before_ = install(SIGTERM, terminate_late);
}

DelayedTermination::~DelayedTermination() {
  termination_is_delayed = 0;
  sigaction(SIGTERM, &before_, nullptr);
}

}  // namespace lockstep::train
