#pragma once

#include <optional>

namespace lockstep::train {

// While one lives, SIGTERM, SIGINT and SIGUSR1 ask for a stop after the current step; a second one
// ends the process at once with 128 + its number. One per process.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // The signal that asked, if any did.
  std::optional<int> requested() const;
};

}  // namespace lockstep::train
