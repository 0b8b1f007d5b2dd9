#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace lockstep::train {

// What a person sees of a run: on a terminal one line that is written over, elsewhere a plain line
// now and then. LOCKSTEP_PROGRESS = terminal, plain or off overrides what is found out (under
// mpirun a rank cannot see the real terminal: plain).
class Progress {
 public:
  Progress(bool show, bool under_launcher, int64_t first_step, int64_t steps);

  void step(int64_t step, double loss, double tokens_per_second, double samples_per_second);
  // A line of its own that stays.
  void note(const std::string& line);

 private:
  using Clock = std::chrono::steady_clock;

  enum class Form { terminal, plain, off } form_;
  int64_t first_step_;
  int64_t steps_;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_ = {};
  bool line_open_ = false;
};

}  // namespace lockstep::train
