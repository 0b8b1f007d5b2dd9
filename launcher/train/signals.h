#pragma once

#include <array>
#include <csignal>
#include <optional>

namespace lockstep::train {

// From here on SIGUSR1, by which launchers ask for a stop, waits for a StopSignals instead of
// ending the process, and so it does again when that ends: for the main thread, before others
// begin, which inherit that.
void hold_stop_requests();
// Where a request may end the process: nothing is lost by it.
void release_stop_requests();

// While one lives, SIGTERM, SIGINT and SIGUSR1 ask for a stop after the current step; a second one
// ends the process at once with 128 + its number, or a second late where it is a SIGTERM that
// DelayedTermination delays. One per process.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // The signal that asked, if any did.
  std::optional<int> requested() const;

 private:
  std::array<struct sigaction, 3> before_{};
  bool were_held_ = false;
};

// While one lives, SIGTERM ends the process a second late: mpirun sends it to the ranks that are
// left when one has ended, and they are to say why. One per process, around any StopSignals.
class DelayedTermination {
 public:
  DelayedTermination();
  ~DelayedTermination();
  DelayedTermination(const DelayedTermination&) = delete;
  DelayedTermination& operator=(const DelayedTermination&) = delete;

 private:
  struct sigaction before_ {};
};

}  // namespace lockstep::train
