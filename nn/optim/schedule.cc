#include "lockstep/nn/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "lockstep/runtime/error.h"

namespace lockstep::optim {
namespace {

double ratio(int64_t part, int64_t whole) {
  return static_cast<double>(part) / static_cast<double>(whole);
}

// From 1 to 0 as `part` goes from 0 to 1.
double half_cosine(double part) { return (1 + std::cos(std::numbers::pi * part)) / 2; }

// Of a SequentialLR: which schedule is in force, and since when.
struct Stage {
  size_t index;
  int64_t start;
};
Stage stage_of(const std::vector<int64_t>& milestones, int64_t step) {
  const auto after = std::upper_bound(milestones.begin(), milestones.end(), step);
  return {static_cast<size_t>(after - milestones.begin()),
          after == milestones.begin() ? 0 : *(after - 1)};
}

// Of a OneCycleLR: the phase that a step falls into, as the places of its ends among the cycle's
// turning points, and how far through it is.
struct Phase {
  int from, to;
  double part;
};
Phase phase_of(const OneCycleLR& cycle, int64_t step) {
  LOCKSTEP_CHECK(step <= cycle.total_steps, "OneCycleLR: step ", step, " of ", cycle.total_steps);
  const double rise = cycle.pct_start * static_cast<double>(cycle.total_steps) - 1;
  const double last = static_cast<double>(cycle.total_steps - 1);
  // Turning points: 0 the beginning, 1 the top, 2 the end.
  struct End {
    double step;
    int point;
  };
  std::vector<End> ends{{rise, 1}};
  if (cycle.three_phase) ends.push_back({2 * rise, 0});
  ends.push_back({last, 2});
  double start = 0;
  int from = 0;
  for (const End& end : ends) {
    const double at = static_cast<double>(step);
    if (at <= end.step || end.point == 2) {
      return {from, end.point, end.step == start ? 1 : (at - start) / (end.step - start)};
    }
    start = end.step;
    from = end.point;
  }
  return {from, 2, 1};
}

double annealed(const OneCycleLR& cycle, const Phase& phase, const double (&points)[3]) {
  const double from = points[phase.from], to = points[phase.to];
  if (cycle.anneal_strategy == OneCycleLR::Anneal::linear) return (to - from) * phase.part + from;
  return to + (from - to) * half_cosine(phase.part);
}

}  // namespace

double StepLR::multiplier(int64_t step) const {
  return std::pow(gamma, static_cast<double>(step / step_size));
}
void StepLR::check() const {
  LOCKSTEP_CHECK(step_size > 0, "StepLR: step_size ", step_size, ", expected above 0");
}

double MultiStepLR::multiplier(int64_t step) const {
  const auto passed = std::count_if(milestones.begin(), milestones.end(),
                                    [&](int64_t milestone) { return milestone <= step; });
  return std::pow(gamma, static_cast<double>(passed));
}

void ConstantLR::check() const {
  LOCKSTEP_CHECK(factor >= 0 && factor <= 1, "ConstantLR: factor ", factor, ", expected 0 to 1");
}

double LinearLR::multiplier(int64_t step) const {
  return start_factor +
         (end_factor - start_factor) * ratio(std::min(step, total_iters), total_iters);
}
void LinearLR::check() const {
  LOCKSTEP_CHECK(start_factor > 0 && start_factor <= 1 && end_factor >= 0 && end_factor <= 1,
                 "LinearLR: factors ", start_factor, " to ", end_factor,
                 ", expected 0 to 1, and "
                 "not 0 at the start");
  LOCKSTEP_CHECK(total_iters > 0, "LinearLR: total_iters ", total_iters, ", expected above 0");
}

double ExponentialLR::multiplier(int64_t step) const {
  return std::pow(gamma, static_cast<double>(step));
}

double PolynomialLR::multiplier(int64_t step) const {
  return std::pow(1 - ratio(std::min(step, total_iters), total_iters), power);
}
void PolynomialLR::check() const {
  LOCKSTEP_CHECK(total_iters > 0, "PolynomialLR: total_iters ", total_iters, ", expected above 0");
}

double CosineAnnealingLR::multiplier(int64_t step) const { return half_cosine(ratio(step, t_max)); }
void CosineAnnealingLR::check() const {
  LOCKSTEP_CHECK(t_max > 0, "CosineAnnealingLR: t_max ", t_max, ", expected above 0");
}

double CosineAnnealingWarmRestarts::at(int64_t step, double rate) const {
  int64_t period = t_0;
  if (t_mult == 1) step %= t_0;
  for (; step >= period; period *= t_mult) step -= period;
  return eta_min + (rate - eta_min) * half_cosine(ratio(step, period));
}
void CosineAnnealingWarmRestarts::check() const {
  LOCKSTEP_CHECK(t_0 > 0 && t_mult > 0, "CosineAnnealingWarmRestarts: t_0 ", t_0, ", t_mult ",
                 t_mult, ", expected above 0");
}

double OneCycleLR::at(int64_t step, double) const {
  const double first = max_lr / div_factor;
  return annealed(*this, phase_of(*this, step), {first, max_lr, first / final_div_factor});
}
std::optional<double> OneCycleLR::momentum(int64_t step) const {
  if (!cycle_momentum) return std::nullopt;
  return annealed(*this, phase_of(*this, step), {max_momentum, base_momentum, max_momentum});
}
void OneCycleLR::check() const {
  LOCKSTEP_CHECK(total_steps > 0 && pct_start >= 0 && pct_start <= 1, "OneCycleLR: total_steps ",
                 total_steps, ", pct_start ", pct_start, ", expected above 0, and 0 to 1");
}

void LambdaLR::check() const { LOCKSTEP_CHECK(lambda, "LambdaLR: no function is given"); }

double SequentialLR::at(int64_t step, double rate) const {
  const Stage stage = stage_of(milestones, step);
  return schedules[stage.index].at(step - stage.start, rate);
}
double SequentialLR::next(int64_t step, double rate, double previous) const {
  const Stage stage = stage_of(milestones, step);
  if (step == stage.start) return at(step, rate);
  return schedules[stage.index].next(step - stage.start, rate, previous);
}
std::optional<double> SequentialLR::momentum(int64_t step) const {
  const Stage stage = stage_of(milestones, step);
  return schedules[stage.index].momentum(step - stage.start);
}
void SequentialLR::check() const {
  LOCKSTEP_CHECK(schedules.size() == milestones.size() + 1, "SequentialLR: ", schedules.size(),
                 " schedules and ", milestones.size(), " milestones, expected one milestone less");
  LOCKSTEP_CHECK(std::is_sorted(milestones.begin(), milestones.end()),
                 "SequentialLR: the milestones are not in order");
}

double ChainedScheduler::at(int64_t step, double rate) const {
  const bool product = std::all_of(schedules.begin(), schedules.end(),
                                   [&](const Schedule& s) { return s.proportional(step); });
  double result = rate;
  if (product) {
    for (const Schedule& schedule : schedules) result = schedule.at(step, result);
  } else {
    for (int64_t i = 0; i <= step; ++i) result = next(i, rate, result);
  }
  return result;
}
double ChainedScheduler::next(int64_t step, double rate, double previous) const {
  for (const Schedule& schedule : schedules) previous = schedule.next(step, rate, previous);
  return previous;
}
std::optional<double> ChainedScheduler::momentum(int64_t step) const {
  std::optional<double> result;
  for (const Schedule& schedule : schedules) {
    if (const auto own = schedule.momentum(step)) result = own;
  }
  return result;
}
void ChainedScheduler::check() const {
  LOCKSTEP_CHECK(!schedules.empty(), "ChainedScheduler: no schedules are given");
}

}  // namespace lockstep::optim
