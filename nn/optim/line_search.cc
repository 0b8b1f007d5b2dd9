#include "lockstep/nn/optim/line_search.h"

#include <algorithm>
#include <cmath>

namespace lockstep::optim {
namespace {

// Where the cubic through both points with their slopes is least, within [low, high].
double cubic_minimum(const LinePoint& a, const LinePoint& b, double low, double high) {
  const double d1 = a.slope + b.slope - 3 * (a.value - b.value) / (a.t - b.t);
  const double square = d1 * d1 - a.slope * b.slope;
  if (!(square >= 0)) return (low + high) / 2;
  const double d2 = std::sqrt(square);
  const LinePoint &near = a.t <= b.t ? a : b, &far = a.t <= b.t ? b : a;
  const double t =
      far.t - (far.t - near.t) * ((far.slope + d2 - d1) / (far.slope - near.slope + 2 * d2));
  return std::min(std::max(t, low), high);
}

struct Search {
  const std::function<LinePoint(double)>& evaluate;
  const LinePoint& start;
  const WolfeOptions& options;
  LinePoint bracket[2];
  int evaluations = 0;
  int rounds = 0;  // of both phases
  bool done = false;

  LinePoint at(double t) {
    ++evaluations;
    return evaluate(t);
  }
  bool decreases(const LinePoint& p) const {
    return !(p.value > start.value + options.decrease * p.t * start.slope);
  }
  bool flat(const LinePoint& p) const {
    return std::abs(p.slope) <= -options.curvature * start.slope;
  }
  int lower() const { return bracket[0].value <= bracket[1].value ? 0 : 1; }

  void enclose(double t);
  void narrow();
  double trial(bool& stuck) const;
};

// Goes on until the bracket holds a good point, or one end is one.
void Search::enclose(double t) {
  LinePoint previous = start, current = at(t);
  for (; rounds < options.max_evaluations; ++rounds) {
    const bool rises = !decreases(current) || (rounds > 1 && current.value >= previous.value);
    if (!rises && flat(current)) {
      bracket[0] = bracket[1] = current;
      done = true;
      return;
    }
    if (rises || current.slope >= 0) {
      bracket[0] = previous;
      bracket[1] = current;
      return;
    }
    const double least = current.t + 0.01 * (current.t - previous.t);
    const double next = cubic_minimum(previous, current, least, current.t * 10);
    previous = current;
    current = at(next);
  }
  bracket[0] = start;
  bracket[1] = current;
}

// The next point to try: not too near to the ends, where interpolation would stop moving.
double Search::trial(bool& stuck) const {
  const auto [low, high] = std::minmax(bracket[0].t, bracket[1].t);
  const double t = cubic_minimum(bracket[0], bracket[1], low, high);
  const double margin = 0.1 * (high - low);
  if (std::min(high - t, t - low) >= margin) {
    stuck = false;
    return t;
  }
  if (!stuck && t < high && t > low) {
    stuck = true;
    return t;
  }
  stuck = false;
  return std::abs(t - high) < std::abs(t - low) ? high - margin : low + margin;
}

void Search::narrow() {
  bool stuck = false;
  int low = lower();
  for (; !done && rounds < options.max_evaluations; ++rounds) {
    if (std::abs(bracket[1].t - bracket[0].t) * options.direction_size < options.tolerance_change) {
      return;
    }
    const LinePoint current = at(trial(stuck));
    LinePoint& best = bracket[low];
    LinePoint& other = bracket[1 - low];
    if (!decreases(current) || current.value >= best.value) {
      other = current;
      low = lower();
      continue;
    }
    if (flat(current)) {
      done = true;
    } else if (current.slope * (other.t - best.t) >= 0) {
      other = best;
    }
    best = current;
  }
}

}  // namespace

LineSearchResult strong_wolfe(const std::function<LinePoint(double t)>& evaluate,
                              const LinePoint& start, double t, const WolfeOptions& options) {
  Search search{.evaluate = evaluate, .start = start, .options = options, .bracket = {}};
  search.enclose(t);
  search.narrow();
  return {search.bracket[search.lower()], search.evaluations};
}

}  // namespace lockstep::optim
