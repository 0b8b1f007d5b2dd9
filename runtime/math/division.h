#pragma once

#include "lockstep/runtime/math/functor.h"

// Division and what is left of it. Part of binary.h. Conventions are PyTorch's: the quotient of
// floor_divide goes with remainder, whose sign is the divisor's; trunc_divide goes with fmod, whose
// sign is the dividend's. The quotients have the derivative 0.
namespace lockstep::math {

// Any divisor is legal for integers: by 0 the quotient is 0 (the op refuses it before), and
// the smallest integer divided by -1 wraps to itself, where the processor's instruction would trap.
LOCKSTEP_HD constexpr int64_t trunc_divide(int64_t a, int64_t b) {
  const int64_t safe = b == 0 || b == -1 ? 1 : b;
  const int64_t opposite = static_cast<int64_t>(uint64_t{0} - static_cast<uint64_t>(a));
  return b == 0 ? 0 : b == -1 ? opposite : a / safe;
}
LOCKSTEP_HD constexpr int64_t fmod(int64_t a, int64_t b) {
  const int64_t safe = b == 0 || b == -1 ? 1 : b;
  return a % safe;
}
LOCKSTEP_HD constexpr int64_t remainder(int64_t a, int64_t b) {
  const int64_t left = fmod(a, b);
  return left != 0 && (left < 0) != (b < 0) ? left + b : left;
}
LOCKSTEP_HD constexpr int64_t floor_divide(int64_t a, int64_t b) {
  const int64_t left = fmod(a, b);
  return trunc_divide(a, b) - (left != 0 && (left < 0) != (b < 0) ? 1 : 0);
}

template <class T>
LOCKSTEP_HD T trunc_divide(T a, T b) {
  return trunc(a / b);
}
template <class T>
LOCKSTEP_HD T remainder(T a, T b) {
  const T left = fmod(a, b);
  return (left != T(0)) & ((left < T(0)) != (b < T(0))) ? left + b : left;
}
// Made of the exact remainder: a / b may round up to a whole number that it does not reach.
template <class T>
LOCKSTEP_HD T floor_divide(T a, T b) {
  const T left = fmod(a, b);
  const bool other_side = (left != T(0)) & ((left < T(0)) != (b < T(0)));
  const T quotient = (a - left) / b - (other_side ? T(1) : T(0));
  const T whole = floor(quotient);
  const T nearest = quotient - whole > T(0.5) ? whole + T(1) : whole;
  return b == T(0) ? a / b : nearest;
}

struct Div {
  static constexpr const char* name = "div";
  template <class T>
  LOCKSTEP_HD T operator()(const T& a, const T& b) const {
    return a / b;
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& a, const T& b, const T&) const {
    return Partials{T(1.0) / b, -(a / b) / b};
  }
};

struct FloorDivide {
  static constexpr const char* name = "floor_divide";
  template <class T>
  LOCKSTEP_HD T operator()(const T& a, const T& b) const {
    return floor_divide(a, b);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T&, const T&, const T&) const {
    return Partials{T(0.0), T(0.0)};
  }
};

struct TruncDivide {
  static constexpr const char* name = "trunc_divide";
  template <class T>
  LOCKSTEP_HD T operator()(const T& a, const T& b) const {
    return trunc_divide(a, b);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T&, const T&, const T&) const {
    return Partials{T(0.0), T(0.0)};
  }
};

struct Fmod {
  static constexpr const char* name = "fmod";
  template <class T>
  LOCKSTEP_HD T operator()(const T& a, const T& b) const {
    return fmod(a, b);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& a, const T& b, const T&) const {
    return Partials{T(1.0), -trunc_divide(a, b)};
  }
};

struct Remainder {
  static constexpr const char* name = "remainder";
  template <class T>
  LOCKSTEP_HD T operator()(const T& a, const T& b) const {
    return remainder(a, b);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& a, const T& b, const T&) const {
    return Partials{T(1.0), -floor_divide(a, b)};
  }
};

}  // namespace lockstep::math
