#pragma once

#include "lockstep/runtime/math/functor.h"

// The non-linearities of neural networks. Part of unary.h.
namespace lockstep::math {

struct Sigmoid {
  static constexpr const char* name = "sigmoid";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return T(1.0) / (T(1.0) + exp(-x));
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T&, const T& y) const {
    return Partials{y * (T(1.0) - y)};
  }
};

struct Relu {
  static constexpr const char* name = "relu";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return select(x < T(0.0), T(0.0), x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T&, const T& y) const {
    return Partials{select(y <= T(0.0), T(0.0), T(1.0))};
  }
};

// x Phi(x), with the normal distribution's Phi (Hendrycks & Gimpel 2016).
struct Gelu {
  static constexpr const char* name = "gelu";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return x * (T(0.5) + T(0.5) * erf(x * T(0.7071067811865476)));
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    const T cumulative = T(0.5) + T(0.5) * erf(x * T(0.7071067811865476));
    const T density = T(0.3989422804014327) * exp(T(-0.5) * x * x);
    return Partials{cumulative + x * density};
  }
};

// The tanh form of the same paper, x/2 (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3),
// written x sigmoid(2u): one exponential, and exact for negative x as well.
struct GeluTanh {
  static constexpr const char* name = "gelu_tanh";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    const T u = T(1.5957691216057308) * x * (T(1.0) + T(0.044715) * x * x);
    return x / (T(1.0) + exp(-u));
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    const T square = x * x;
    const T u = T(1.5957691216057308) * x * (T(1.0) + T(0.044715) * square);
    const T slope = T(1.5957691216057308) * (T(1.0) + T(0.134145) * square);
    const T gate = T(1.0) / (T(1.0) + exp(-u));
    return Partials{gate + x * gate * (T(1.0) - gate) * slope};
  }
};

struct Silu {
  static constexpr const char* name = "silu";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return x / (T(1.0) + exp(-x));
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    const T gate = T(1.0) / (T(1.0) + exp(-x));
    return Partials{gate * (T(1.0) + x * (T(1.0) - gate))};
  }
};

// log(1 + e^x), and x itself above 20.
struct Softplus {
  static constexpr const char* name = "softplus";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return select(x > T(20.0), x, log1p(exp(select(x > T(20.0), T(0.0), x))));
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{select(x > T(20.0), T(1.0), T(1.0) / (T(1.0) + exp(-x)))};
  }
};

struct LeakyRelu {
  static constexpr const char* name = "leaky_relu";
  double slope;
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return select(x > T(0.0), x, T(slope) * x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{select(x > T(0.0), T(1.0), T(slope))};
  }
};

}  // namespace lockstep::math
