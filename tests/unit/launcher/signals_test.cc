#include "lockstep/launcher/train/signals.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>

namespace lockstep::train {
namespace {

struct sigaction action_of(int signal) {
  struct sigaction action = {};
  sigaction(signal, nullptr, &action);
  return action;
}

// On the stack of the thread it interrupts it would write into the heap: oneDNN moves the stack
// pointer there.
TEST(Signals, HandlersHaveAStackOfTheirOwn) {
  const DelayedTermination delayed;
  EXPECT_NE(action_of(SIGTERM).sa_flags & SA_ONSTACK, 0);
  const StopSignals stop;
  for (int signal : {SIGTERM, SIGINT, SIGUSR1}) {
    EXPECT_NE(action_of(signal).sa_flags & SA_ONSTACK, 0);
  }
  stack_t stack = {};
  ASSERT_EQ(sigaltstack(nullptr, &stack), 0);
  EXPECT_EQ(stack.ss_flags & SS_DISABLE, 0);
}

TEST(Signals, StopIsRequestedOnceAndWhatWasBeforeComesBack) {
  const auto before = action_of(SIGUSR1).sa_handler;
  {
    const StopSignals stop;
    EXPECT_FALSE(stop.requested());
    raise(SIGUSR1);
    EXPECT_EQ(stop.requested(), SIGUSR1);
  }
  EXPECT_EQ(action_of(SIGUSR1).sa_handler, before);
}

// As soon as a program has begun, not only when its training has.
TEST(Signals, ARequestBeforeTheHandlersAreThereIsNotLost) {
  hold_stop_requests();
  raise(SIGUSR1);
  {
    const StopSignals stop;
    EXPECT_EQ(stop.requested(), SIGUSR1);
  }
  // And one that comes after the training, when there is nothing to stop, does not end the process.
  raise(SIGUSR1);
  {
    const StopSignals next;
    EXPECT_EQ(next.requested(), SIGUSR1);
  }
  sigset_t requests;
  sigemptyset(&requests);
  sigaddset(&requests, SIGUSR1);
  pthread_sigmask(SIG_UNBLOCK, &requests, nullptr);
}

TEST(Signals, RequestsThatWereNotHeldAreNotAfterwards) {
  { const StopSignals stop; }
  sigset_t blocked;
  pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
  EXPECT_FALSE(sigismember(&blocked, SIGUSR1));
}

TEST(Signals, DelayedTerminationLeavesASecondToSpeak) {
  // A process of its own, not a fork of this one: under ThreadSanitizer the fork of a process with
  // threads defers its signals until the next intercepted call, for good.
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EXIT(
      {
        const DelayedTermination delayed;
        { const StopSignals stop; }
        raise(SIGTERM);
        for (;;) pause();
      },
      testing::ExitedWithCode(128 + SIGTERM), "");
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  EXPECT_GE(taken.count(), 0.9);
  EXPECT_LT(taken.count(), 5);
}

// As when a rank fails while all are saving what a stop was asked for.
TEST(Signals, DelayedTerminationComesLateAfterARequest) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EXIT(
      {
        const DelayedTermination delayed;
        const StopSignals stop;
        raise(SIGUSR1);
        raise(SIGTERM);
        for (;;) pause();
      },
      testing::ExitedWithCode(128 + SIGTERM), "");
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  EXPECT_GE(taken.count(), 0.9);
  EXPECT_EXIT(
      {
        const DelayedTermination delayed;
        const StopSignals stop;
        raise(SIGUSR1);
        raise(SIGTERM);
        raise(SIGTERM);
        for (;;) pause();
      },
      testing::ExitedWithCode(128 + SIGTERM), "");
  const std::chrono::duration<double> both = std::chrono::steady_clock::now() - start;
  EXPECT_LT(both.count(), taken.count() + 0.9);
}

}  // namespace
}  // namespace lockstep::train
