#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "lockstep/nn/optim/optimizer.h"
#include "lockstep/nn/optim/schedule.h"

namespace lockstep::optim {

// Sets an optimizer's rates by a schedule: those of step 0 at once, the next ones at each step(),
// which goes after the optimizer's. Each group's own rate is the one that it had when this was
// made.
class Scheduler {
 public:
  Scheduler(Optimizer& optimizer, Schedule schedule);
  // One schedule a group.
  Scheduler(Optimizer& optimizer, std::vector<Schedule> schedules);

  void step() { set_current_step(step_ + 1); }
  // All that resuming needs.
  int64_t current_step() const { return step_; }
  void set_current_step(int64_t step);

 private:
  Optimizer& optimizer_;
  std::vector<Schedule> schedules_;
  std::vector<double> rates_;  // the groups' own
  int64_t step_ = 0;
};

struct PlateauOptions {
  enum class Mode : uint8_t { min, max };
  enum class ThresholdMode : uint8_t { relative, absolute };
  Mode mode = Mode::min;
  double factor = 0.1;
  int64_t patience = 10;
  double threshold = 1e-4;
  ThresholdMode threshold_mode = ThresholdMode::relative;
  int64_t cooldown = 0;
  std::vector<double> min_lr = {0};  // one means all groups
  double epsilon = 1e-8;             // a smaller change is none
};

// Multiplies the rates by `factor` when a metric has not improved, by more than the threshold, for
// more than `patience` steps; then it waits `cooldown` steps before it counts again.
class ReduceLROnPlateau {
 public:
  explicit ReduceLROnPlateau(Optimizer& optimizer, PlateauOptions options = {});

  void step(double metric);

  struct State {
    double best = std::numeric_limits<double>::infinity();
    int64_t bad_steps = 0;
    int64_t cooldown_left = 0;
    std::vector<double> rates;  // the optimizer's, by group
  };
  State state() const;
  // Sets the optimizer's rates too.
  void set_state(const State& state);

 private:
  bool better(double metric) const;
  void reduce();

  Optimizer& optimizer_;
  PlateauOptions options_;
  State state_;
};

}  // namespace lockstep::optim
