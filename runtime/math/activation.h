#pragma once

#include "lockstep/runtime/math/functor.h"

// The non-linearities of neural networks. Part of unary.h.
namespace lockstep::math {

struct Sigmoid {
  static constexpr const char* name = "sigmoid";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return sigmoid(x);
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
    const T gate = sigmoid(u);
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
    const T gate = sigmoid(x);
    return Partials{gate * (T(1.0) + x * (T(1.0) - gate))};
  }
};

// log(1 + e^(beta x)) / beta, and x itself where beta x is above the threshold.
struct Softplus {
  static constexpr const char* name = "softplus";
  double beta;
  double threshold;
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    const T u = T(beta) * x;
    const T safe = select(u > T(threshold), T(0.0), u);
    return select(u > T(threshold), x, log1p(exp(safe)) / T(beta));
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    const T u = T(beta) * x;
    return Partials{select(u > T(threshold), T(1.0), sigmoid(u))};
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

// log(sigmoid(x)); the exponent is never positive.
struct LogSigmoid {
  static constexpr const char* name = "logsigmoid";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    const T negative = select(x < T(0.0), x, T(0.0));
    return negative - log1p(exp(select(x < T(0.0), x, -x)));
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{sigmoid(-x)};
  }
};

// x where positive, else e^x - 1 stretched: the three forms of Clevert et al. 2016, Klambauer et
// al. 2017 and Barron 2017. The branch not taken gets 0, which no exponential overflows.
template <class T>
LOCKSTEP_HD constexpr T negative_part(const T& x) {
  return select(x < T(0.0), x, T(0.0));
}

struct Elu {
  static constexpr const char* name = "elu";
  double alpha;
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return select(x < T(0.0), T(alpha) * expm1(negative_part(x)), x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{select(x <= T(0.0), T(alpha) * exp(negative_part(x)), T(1.0))};
  }
};

struct Selu {
  static constexpr const char* name = "selu";
  static constexpr double kScale = 1.0507009873554804934193349852946;
  static constexpr double kAlpha = 1.6732632423543772848170429916717;
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return select(x < T(0.0), T(kScale * kAlpha) * expm1(negative_part(x)), T(kScale) * x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{select(x <= T(0.0), T(kScale * kAlpha) * exp(negative_part(x)), T(kScale))};
  }
};

struct Celu {
  static constexpr const char* name = "celu";
  double alpha;
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return select(x < T(0.0), T(alpha) * expm1(negative_part(x) / T(alpha)), x);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    // PyTorch's backward rounds alpha to float, in double too.
    const double scale = 1 / static_cast<double>(static_cast<float>(alpha));
    const T slope = T(alpha * scale) * exp(negative_part(x) * T(scale));
    return Partials{select(x <= T(0.0), slope, T(1.0))};
  }
};

// x tanh(softplus(x)) (Misra 2019), with the tangent as a fraction in e^x: for n = e^x it is
// w / (w + 2) with w = n (n + 2), which loses no digits on either side and is 1 above 20.
struct Mish {
  static constexpr const char* name = "mish";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    const T n = exp(select(x > T(20.0), T(20.0), x));
    const T w = n * (n + T(2.0));
    return x * (w / (w + T(2.0)));
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    const T below = select(x > T(20.0), T(20.0), x);
    const T n = exp(below);
    const T w = n * (n + T(2.0));
    const T sum = w + T(2.0);
    const T slope = w / sum + below * (T(4.0) * n * (n + T(1.0)) / (sum * sum));
    return Partials{select(x > T(20.0), T(1.0), slope)};
  }
};

// clamp, but the derivative at NaN is 1.
struct HardTanh {
  static constexpr const char* name = "hardtanh";
  double low;
  double high;
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    const T raised = select(x < T(low), T(low), x);
    return select(raised > T(high), T(high), raised);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{select(x <= T(low), T(0.0), select(x >= T(high), T(0.0), T(1.0)))};
  }
};

// x relu6(x + 3) / 6 (Howard et al. 2019).
struct HardSwish {
  static constexpr const char* name = "hardswish";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    const T raised = select(x < T(-3.0), T(0.0), x + T(3.0));
    return x * select(x > T(3.0), T(6.0), raised) / T(6.0);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    const T inside = select(x < T(3.0), x / T(3.0) + T(0.5), T(1.0));
    return Partials{select(x <= T(-3.0), T(0.0), inside)};
  }
};

struct HardSigmoid {
  static constexpr const char* name = "hardsigmoid";
  static constexpr double kSixth = 1.0F / 6.0F;  // a float in PyTorch's backward, in double too
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    const T raised = select(x < T(-3.0), T(0.0), x + T(3.0));
    return select(x > T(3.0), T(6.0), raised) / T(6.0);
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    return Partials{select((x > T(-3.0)) & (x < T(3.0)), T(kSixth), T(0.0))};
  }
};

struct Softsign {
  static constexpr const char* name = "softsign";
  template <class T>
  LOCKSTEP_HD T operator()(const T& x) const {
    return x / (T(1.0) + select(x < T(0.0), -x, x));
  }
  template <class T>
  LOCKSTEP_HD constexpr auto grad(const T& x, const T&) const {
    const T size = T(1.0) + select(x < T(0.0), -x, select(x > T(0.0), x, T(0.0)));
    return Partials{T(1.0) / (size * size)};
  }
};

}  // namespace lockstep::math
