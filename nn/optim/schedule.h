#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

namespace lockstep::optim {

// A learning rate as a function of the step: what is in force at `step`, from 0, for parameters
// whose own rate is `rate`. A value, made from any of the schedules below; nothing is remembered
// between steps, so that a run goes on from a step's number alone. Throws Error where the
// schedule's numbers make no sense.
class Schedule {
 public:
  // `S` has at(step, rate), or a multiplier(step) of the rate, and check().
  template <class S>
  requires(!std::same_as<S, Schedule>) Schedule(S schedule)
      : form_(std::make_shared<FormOf<S>>(std::move(schedule))) {}

  double at(int64_t step, double rate) const { return form_->at(step, rate); }
  // The momentum that goes with the rate, if the schedule has one.
  std::optional<double> momentum(int64_t step) const { return form_->momentum(step); }

  // For ChainedScheduler. The rate at `step` from the one before, which other schedules may have
  // changed as well (at step 0 from `rate`, or what those before it made of it).
  double next(int64_t step, double rate, double previous) const {
    return form_->next(step, rate, previous);
  }
  // Whether, up to `step`, it multiplies whatever rate it finds.
  bool proportional(int64_t step) const { return form_->proportional(step); }

 private:
  struct Form {
    virtual ~Form() = default;
    virtual double at(int64_t step, double rate) const = 0;
    virtual double next(int64_t step, double rate, double previous) const = 0;
    virtual bool proportional(int64_t step) const = 0;
    virtual std::optional<double> momentum(int64_t step) const = 0;
  };
  template <class S>
  struct FormOf;

  std::shared_ptr<const Form> form_;
};

// Times gamma every `step_size` steps.
struct StepLR {
  int64_t step_size = 1;
  double gamma = 0.1;
  double multiplier(int64_t step) const;
  void check() const;
};

// Times gamma at each milestone (twice where it is there twice).
struct MultiStepLR {
  std::vector<int64_t> milestones;
  double gamma = 0.1;
  double multiplier(int64_t step) const;
  void check() const {}
};

// Times `factor` before step `total_iters`.
struct ConstantLR {
  double factor = 1.0 / 3;
  int64_t total_iters = 5;
  double multiplier(int64_t step) const { return step < total_iters ? factor : 1; }
  void check() const;
};

// From start_factor to end_factor in a straight line of `total_iters` steps.
struct LinearLR {
  double start_factor = 1.0 / 3;
  double end_factor = 1;
  int64_t total_iters = 5;
  double multiplier(int64_t step) const;
  void check() const;
};

// gamma^step
struct ExponentialLR {
  double gamma = 0.1;
  double multiplier(int64_t step) const;
  void check() const {}
};

// (1 - step / total_iters)^power, then 0.
struct PolynomialLR {
  int64_t total_iters = 5;
  double power = 1;
  double multiplier(int64_t step) const;
  void check() const;
};

// Half a cosine from the rate to eta_min at t_max; rises again after it (Loshchilov & Hutter 2017,
// without restarts).
struct CosineAnnealingLR {
  int64_t t_max = 1;
  double eta_min = 0;
  double multiplier(int64_t step) const;  // of what is above eta_min
  bool proportional(int64_t step) const { return eta_min == 0 && step <= t_max; }
  void check() const;
};

// The same, back at the rate after t_0 steps, then after t_mult as many as before each time.
struct CosineAnnealingWarmRestarts {
  int64_t t_0 = 1;
  int64_t t_mult = 1;
  double eta_min = 0;
  double at(int64_t step, double rate) const;
  void check() const;
};

// Up from max_lr / div_factor to max_lr over pct_start of the steps, then down to the
// final_div_factor-th part of where it began (Smith & Topin 2018); `three_phase` comes down as it
// went up, then on. The parameters' own rate does not matter. With `cycle_momentum` the momentum
// (or beta1) goes the other way, from max_momentum to base_momentum and back. A step past
// `total_steps` is an Error.
struct OneCycleLR {
  enum class Anneal : uint8_t { cos, linear };
  double max_lr = 0;
  int64_t total_steps = 0;
  double pct_start = 0.3;
  Anneal anneal_strategy = Anneal::cos;
  bool cycle_momentum = true;
  double base_momentum = 0.85;
  double max_momentum = 0.95;
  double div_factor = 25;
  double final_div_factor = 1e4;
  bool three_phase = false;
  double at(int64_t step, double rate) const;
  std::optional<double> momentum(int64_t step) const;
  void check() const;
};

// The rate times what a function of the step returns.
struct LambdaLR {
  std::function<double(int64_t step)> lambda;
  double at(int64_t step, double rate) const { return rate * lambda(step); }
  void check() const;
};

// One schedule after the other: the next begins, with its own step 0, at each milestone. One
// schedule more than milestones.
struct SequentialLR {
  std::vector<Schedule> schedules;
  std::vector<int64_t> milestones;
  double at(int64_t step, double rate) const;
  double next(int64_t step, double rate, double previous) const;
  std::optional<double> momentum(int64_t step) const;
  void check() const;
};

// All at once: each changes, step by step, the rate that the one before it left. Those that do not
// follow from the rate before them (LambdaLR, OneCycleLR, CosineAnnealingWarmRestarts, a
// SequentialLR at its milestones) put their own in its place. With such, or with a cosine that is
// above 0 or past its end, at() takes time in proportion to the step.
struct ChainedScheduler {
  std::vector<Schedule> schedules;
  double at(int64_t step, double rate) const;
  double next(int64_t step, double rate, double previous) const;
  std::optional<double> momentum(int64_t step) const;
  void check() const;
};

template <class S>
struct Schedule::FormOf final : Schedule::Form {
  explicit FormOf(S own) : schedule(std::move(own)) { schedule.check(); }

  static constexpr bool kMultiplies = requires(S s) { s.multiplier(0); };
  double floor() const {
    if constexpr (requires(S s) { s.eta_min; }) {
      return schedule.eta_min;
    } else {
      return 0;
    }
  }
  bool proportional(int64_t step) const override {
    if constexpr (requires { schedule.proportional(step); }) return schedule.proportional(step);
    return kMultiplies;
  }

  double at(int64_t step, double rate) const override {
    if constexpr (kMultiplies) {
      return floor() + (rate - floor()) * schedule.multiplier(step);
    } else {
      return schedule.at(step, rate);
    }
  }

  double next(int64_t step, double rate, double previous) const override {
    if constexpr (kMultiplies) {
      if (step == 0) return at(0, previous);
      const double now = schedule.multiplier(step), before = schedule.multiplier(step - 1);
      if (now == before) return previous;
      if (before == 0) return previous + (rate - floor()) * now;
      return floor() + (previous - floor()) * (now / before);
    } else if constexpr (requires { schedule.next(step, rate, previous); }) {
      return schedule.next(step, rate, previous);
    } else {
      return schedule.at(step, rate);
    }
  }

  std::optional<double> momentum(int64_t step) const override {
    if constexpr (requires { schedule.momentum(step); }) return schedule.momentum(step);
    return std::nullopt;
  }

  S schedule;
};

}  // namespace lockstep::optim
