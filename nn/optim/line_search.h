#pragma once

#include <functional>

#include "lockstep/runtime/array.h"

namespace lockstep::optim {

// A point on the line x + t d: the value and the gradient there, and the slope along d.
struct LinePoint {
  double t = 0;
  double value = 0;
  double slope = 0;
  Array gradient = {};
};

struct WolfeOptions {
  double decrease = 1e-4;          // c1 of the Armijo condition
  double curvature = 0.9;          // c2
  double tolerance_change = 1e-9;  // of the largest element of a step
  int max_evaluations = 25;
  double direction_size = 1;  // the largest element of d
};

struct LineSearchResult {
  LinePoint point;
  int evaluations = 0;
};

// A point with the strong Wolfe conditions (Nocedal & Wright, algorithms 3.5 and 3.6) from `start`
// (t = 0), trying `t` first: brackets one, then narrows the bracket by cubic interpolation. Where
// the evaluations do not suffice, the best end of the bracket.
LineSearchResult strong_wolfe(const std::function<LinePoint(double t)>& evaluate,
                              const LinePoint& start, double t, const WolfeOptions& options);

}  // namespace lockstep::optim
