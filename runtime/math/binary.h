#pragma once

#include "lockstep/runtime/math/division.h"
#include "lockstep/runtime/math/functor.h"

// Conventions are PyTorch's: maximum and minimum give half of the gradient to each operand where
// they are equal and pass NaN through; pow(0, 0) = 1.
namespace lockstep::math {

struct Add {
  static constexpr const char* name = "add";
  template <class T>
  LOCKSTEP_HD T operator()(const T& a, const T& b) const {
    return a + b;
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T&, const T&, const T&) const {
    return Partials{T(1.0), T(1.0)};
  }
};

struct Sub {
  static constexpr const char* name = "sub";
  template <class T>
  LOCKSTEP_HD T operator()(const T& a, const T& b) const {
    return a - b;
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T&, const T&, const T&) const {
    return Partials{T(1.0), T(-1.0)};
  }
};

struct Mul {
  static constexpr const char* name = "mul";
  template <class T>
  LOCKSTEP_HD T operator()(const T& a, const T& b) const {
    return a * b;
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& a, const T& b, const T&) const {
    return Partials{b, a};
  }
};

// Wraps, as multiplying does; 1/a^-b, cut to an integer, where b is negative.
LOCKSTEP_HD constexpr int64_t pow(int64_t a, int64_t b) {
  if (b < 0) return a == 1 ? 1 : a == -1 ? ((b & 1) != 0 ? -1 : 1) : 0;
  uint64_t base = static_cast<uint64_t>(a);
  uint64_t product = 1;
  for (uint64_t left = static_cast<uint64_t>(b); left != 0; left >>= 1) {
    if ((left & 1) != 0) product *= base;
    base *= base;
  }
  return static_cast<int64_t>(product);
}

struct Pow {
  static constexpr const char* name = "pow";
  template <class T>
  LOCKSTEP_HD T operator()(const T& a, const T& b) const {
    return pow(a, b);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& a, const T& b, const T& out) const {
    const T exponent = select(b == T(0.0), T(0.0), b - T(1.0));
    // 0^b is flat in b for b >= 0, where out * log(0) would be NaN.
    const T flat = select(b >= T(0.0), T(1.0), a);
    const T base = select(a == T(0.0), flat, a);
    return Partials{b * pow(a, exponent), out * log(base)};
  }
};

struct Maximum {
  static constexpr const char* name = "maximum";
  template <class T>
  LOCKSTEP_HD T operator()(const T& a, const T& b) const {
    return select(a != a, a, select(a > b, a, b));
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& a, const T& b, const T&) const {
    return Partials{select(a == b, T(0.5), select(a < b, T(0.0), T(1.0))),
                    select(a == b, T(0.5), select(b < a, T(0.0), T(1.0)))};
  }
};

struct Minimum {
  static constexpr const char* name = "minimum";
  template <class T>
  LOCKSTEP_HD T operator()(const T& a, const T& b) const {
    return select(a != a, a, select(a < b, a, b));
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& a, const T& b, const T&) const {
    return Partials{select(a == b, T(0.5), select(a > b, T(0.0), T(1.0))),
                    select(a == b, T(0.5), select(b > a, T(0.0), T(1.0)))};
  }
};

// The angle of (x = b, y = a); its derivatives at the origin are 0.
struct Atan2 {
  static constexpr const char* name = "atan2";
  template <class T>
  LOCKSTEP_HD T operator()(const T& a, const T& b) const {
    return atan2(a, b);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& a, const T& b, const T&) const {
    const T square = a * a + b * b;
    const T safe = select(square == T(0.0), T(1.0), square);
    return Partials{b / safe, -(a / safe)};
  }
};

// The order is the index in every table. Append.
using BinaryOps = TypeList<Add, Sub, Mul, Div, Pow, Maximum, Minimum, Atan2, FloorDivide,
                           TruncDivide, Fmod, Remainder>;

// Those that are also defined on integers, exactly, and those of them on bool. The others take
// integers to f32.
using IntegerBinaryOps =
    TypeList<Add, Sub, Mul, Pow, Maximum, Minimum, FloorDivide, TruncDivide, Fmod, Remainder>;
using BooleanBinaryOps = TypeList<Add, Mul, Maximum, Minimum>;

}  // namespace lockstep::math
