#pragma once

#include "lockstep/runtime/math/functor.h"

// Exponentials, logarithms, circular and hyperbolic functions, the error function. Part of unary.h.
namespace lockstep::math {

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

struct Asin {
  static constexpr const char* name = "asin";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return asin(x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{T(1.0) / sqrt((T(1.0) - x) * (T(1.0) + x))};
  }
};

struct Acos {
  static constexpr const char* name = "acos";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return acos(x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{T(-1.0) / sqrt((T(1.0) - x) * (T(1.0) + x))};
  }
};

struct Atan {
  static constexpr const char* name = "atan";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return atan(x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{T(1.0) / (T(1.0) + x * x)};
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

struct Erfc {
  static constexpr const char* name = "erfc";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return erfc(x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{T(-1.1283791670955126) * exp(-(x * x))};
  }
};

}  // namespace lockstep::math
