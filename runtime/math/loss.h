#pragma once

#include "lockstep/runtime/math/functor.h"

namespace lockstep::math {

// x^2 / 2 within the bound, bound * (|x| - bound / 2) beyond it (Huber 1964).
struct Huber {
  static constexpr const char* name = "huber";
  double bound;
  template <class T>
  LOCKSTEP_HD constexpr T held(const T& x) const {
    return select(x <= T(-bound), T(-bound), select(x >= T(bound), T(bound), x));
  }
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    const T slope = held(x);
    return slope * (x - T(0.5) * slope);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{held(x)};
  }
};

}  // namespace lockstep::math
