#pragma once

#include "lockstep/runtime/math/functor.h"

// Conventions at corners are PyTorch's: the derivatives of abs, sign and relu at 0 and of clamp at
// its bounds are 0, NaN passes through relu and clamp, round takes halves to even.
namespace lockstep::math {

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

struct Exp {
  static constexpr const char* name = "exp";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return exp(x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T&, const T& y) const {
    return Partials{y};
  }
};

struct Expm1 {
  static constexpr const char* name = "expm1";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return expm1(x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T&, const T& y) const {
    return Partials{y + T(1.0)};
  }
};

struct Log {
  static constexpr const char* name = "log";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return log(x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{T(1.0) / x};
  }
};

struct Log1p {
  static constexpr const char* name = "log1p";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return log1p(x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{T(1.0) / (T(1.0) + x)};
  }
};

struct Log2 {
  static constexpr const char* name = "log2";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return log2(x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{T(1.4426950408889634) / x};  // 1 / ln 2
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

struct Sin {
  static constexpr const char* name = "sin";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return sin(x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{cos(x)};
  }
};

struct Cos {
  static constexpr const char* name = "cos";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return cos(x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{-sin(x)};
  }
};

struct Tan {
  static constexpr const char* name = "tan";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return tan(x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T&, const T& y) const {
    return Partials{T(1.0) + y * y};
  }
};

struct Tanh {
  static constexpr const char* name = "tanh";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return tanh(x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T&, const T& y) const {
    return Partials{T(1.0) - y * y};
  }
};

struct Sinh {
  static constexpr const char* name = "sinh";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return sinh(x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{cosh(x)};
  }
};

struct Cosh {
  static constexpr const char* name = "cosh";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return cosh(x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{sinh(x)};
  }
};

struct Erf {
  static constexpr const char* name = "erf";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return erf(x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{T(1.1283791670955126) * exp(-(x * x))};  // 2 / sqrt(pi)
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

}  // namespace lockstep::math

#include "lockstep/runtime/math/activation.h"

namespace lockstep::math {

// The order is the index in every table. Append.
using UnaryOps =
    TypeList<Neg, Abs, Sign, Exp, Expm1, Log, Log1p, Log2, Sqrt, Rsqrt, Reciprocal, Square, Sin,
             Cos, Tan, Tanh, Sinh, Cosh, Erf, Sigmoid, Relu, Gelu, GeluTanh, Silu, Softplus,
             LeakyRelu, Clamp, PowScalar, AddScalar, MulScalar, Floor, Ceil, Round>;

// Those that are also defined on integers, exactly.
using IntegerUnaryOps = TypeList<Neg, Abs, Sign, Square, Relu, AddScalar, MulScalar>;

}  // namespace lockstep::math
