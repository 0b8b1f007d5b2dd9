#pragma once

#include "lockstep/runtime/math/functor.h"

// Of one operand: signs, powers, numbers as the other operand, bounds and whole parts. Part of
// unary.h.
namespace lockstep::math {

// An integer is its own whole part.
LOCKSTEP_HD constexpr int64_t floor(int64_t x) { return x; }
LOCKSTEP_HD constexpr int64_t ceil(int64_t x) { return x; }
LOCKSTEP_HD constexpr int64_t round(int64_t x) { return x; }
LOCKSTEP_HD constexpr int64_t trunc(int64_t x) { return x; }

struct Neg {
  static constexpr const char* name = "neg";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return -x;
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T&, const T&) const {
    return Partials{T(-1.0)};
  }
};

struct Abs {
  static constexpr const char* name = "abs";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return select(x > T(0.0), x, T(0.0) - x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{select(x > T(0.0), T(1.0), select(x < T(0.0), T(-1.0), T(0.0)))};
  }
};

struct Sign {
  static constexpr const char* name = "sign";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return select(x > T(0.0), T(1.0), select(x < T(0.0), T(-1.0), T(0.0)));
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T&, const T&) const {
    return Partials{T(0.0)};
  }
};

struct Sqrt {
  static constexpr const char* name = "sqrt";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return sqrt(x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T&, const T& y) const {
    return Partials{T(0.5) / y};
  }
};

struct Rsqrt {
  static constexpr const char* name = "rsqrt";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return T(1.0) / sqrt(x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T&, const T& y) const {
    return Partials{T(-0.5) * y * y * y};
  }
};

struct Reciprocal {
  static constexpr const char* name = "reciprocal";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return T(1.0) / x;
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T&, const T& y) const {
    return Partials{-(y * y)};
  }
};

struct Square {
  static constexpr const char* name = "square";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return x * x;
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{T(2.0) * x};
  }
};

struct PowScalar {
  static constexpr const char* name = "pow_scalar";
  double exponent;
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return pow(x, T(exponent));
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{T(exponent) * pow(x, T(exponent == 0 ? 0 : exponent - 1))};
  }
};

struct AddScalar {
  static constexpr const char* name = "add_scalar";
  double addend;
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return x + T(addend);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T&, const T&) const {
    return Partials{T(1.0)};
  }
};

struct MulScalar {
  static constexpr const char* name = "mul_scalar";
  double factor;
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return x * T(factor);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T&, const T&) const {
    return Partials{T(factor)};
  }
};

struct DivScalar {
  static constexpr const char* name = "div_scalar";
  double divisor;
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return x / T(divisor);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T&, const T&) const {
    return Partials{T(1.0) / T(divisor)};
  }
};

struct Clamp {
  static constexpr const char* name = "clamp";
  double low;
  double high;
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    const T raised = select(x < T(low), T(low), x);
    return select(raised > T(high), T(high), raised);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{select((x > T(low)) & (x < T(high)), T(1.0), T(0.0))};
  }
};

struct ClampMin {
  static constexpr const char* name = "clamp_min";
  double low;
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return select(x < T(low), T(low), x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{select(x > T(low), T(1.0), T(0.0))};
  }
};

struct ClampMax {
  static constexpr const char* name = "clamp_max";
  double high;
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return select(x > T(high), T(high), x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{select(x < T(high), T(1.0), T(0.0))};
  }
};

struct Floor {
  static constexpr const char* name = "floor";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return floor(x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T&, const T&) const {
    return Partials{T(0.0)};
  }
};

struct Ceil {
  static constexpr const char* name = "ceil";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return ceil(x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T&, const T&) const {
    return Partials{T(0.0)};
  }
};

struct Round {
  static constexpr const char* name = "round";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return round(x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T&, const T&) const {
    return Partials{T(0.0)};
  }
};

struct Trunc {
  static constexpr const char* name = "trunc";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return trunc(x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T&, const T&) const {
    return Partials{T(0.0)};
  }
};

}  // namespace lockstep::math
