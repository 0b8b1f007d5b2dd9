#pragma once

#include <utility>

#include "lockstep/runtime/math/functor.h"

// The arithmetic of optimizers, read by both compilers: one functor each, generic in T = float or
// double. Its data members are the constants of a run of parameters, all double; what depends on
// the step alone (bias corrections) is computed by the host. It is given one parameter, its
// gradient and its `kStates` state values, and changes all but the gradient.
//
// Of the members that most have: gradients are multiplied by `gradient_scale` on the way in (the
// negative maximizes), `decay` times the parameter is added to them, and `parameter_scale` shrinks
// the parameter first (decoupled weight decay, Loshchilov & Hutter 2019).
namespace lockstep::math {

// A decay of 0 does not read the parameter: infinity stays.
template <class T>
LOCKSTEP_HD T decayed(const T& gradient, double scale, const T& parameter, double decay) {
  const T g = gradient * T(scale);
  return select(decay != 0, g + T(decay) * parameter, g);
}

// p -= rate * g
struct SgdUpdate {
  static constexpr const char* name = "sgd";
  static constexpr int kStates = 0;
  double gradient_scale, decay, rate;
  template <class T>
  LOCKSTEP_HD void operator()(T& parameter, const T& gradient, T*) const {
    parameter -= T(rate) * decayed(gradient, gradient_scale, parameter, decay);
  }
};

// b = momentum * b + share * g; p -= rate * (direct * g + through_buffer * b)
struct MomentumUpdate {
  static constexpr const char* name = "momentum";
  static constexpr int kStates = 1;
  double gradient_scale, decay, rate;
  double momentum, share;         // 0 and 1 at the first step
  double direct, through_buffer;  // Nesterov: 1 and the momentum, else 0 and 1
  template <class T>
  LOCKSTEP_HD void operator()(T& parameter, const T& gradient, T* buffer) const {
    const T g = decayed(gradient, gradient_scale, parameter, decay);
    const T b = T(momentum) * *buffer + T(share) * g;
    const T step = T(through_buffer) * b;
    *buffer = b;
    parameter -= T(rate) * select(direct != 0, T(direct) * g + step, step);
  }
};

// Adam (Kingma & Ba 2015). With kAmsgrad (Reddi et al. 2018) the third state is the largest second
// moment so far. step_size = rate / (1 - beta1^t), inverse_root = 1 / sqrt(1 - beta2^t).
template <bool kAmsgrad>
struct AdamUpdate {
  static constexpr const char* name = kAmsgrad ? "amsgrad" : "adam";
  static constexpr int kStates = kAmsgrad ? 3 : 2;
  double gradient_scale, decay, parameter_scale;
  double beta1, beta2, epsilon;
  double step_size, inverse_root;
  template <class T>
  LOCKSTEP_HD void operator()(T& parameter, const T& gradient, T* state) const {
    const T g = decayed(gradient, gradient_scale, parameter, decay);
    const T m = T(beta1) * state[0] + T(1 - beta1) * g;
    const T v = T(beta2) * state[1] + T(1 - beta2) * g * g;
    state[0] = m;
    state[1] = v;
    T second = v;
    if constexpr (kAmsgrad) {
      second = select((v > state[2]) | (v != v), v, state[2]);
      state[2] = second;
    }
    const T denominator = sqrt(second) * T(inverse_root) + T(epsilon);
    parameter = parameter * T(parameter_scale) - T(step_size) * m / denominator;
  }
};

// Adam with Nesterov's momentum (Dozat 2016). The shares of the gradient and of the first moment in
// the step, the rate included, follow from the momentum's own schedule.
struct NadamUpdate {
  static constexpr const char* name = "nadam";
  static constexpr int kStates = 2;
  double gradient_scale, decay, parameter_scale;
  double beta1, beta2, epsilon;
  double gradient_step, moment_step, inverse_root;
  template <class T>
  LOCKSTEP_HD void operator()(T& parameter, const T& gradient, T* state) const {
    const T p = parameter * T(parameter_scale);
    const T g = decayed(gradient, gradient_scale, parameter, decay);
    const T m = T(beta1) * state[0] + T(1 - beta1) * g;
    const T v = T(beta2) * state[1] + T(1 - beta2) * g * g;
    state[0] = m;
    state[1] = v;
    const T denominator = sqrt(v) * T(inverse_root) + T(epsilon);
    parameter = p - (T(gradient_step) * g + T(moment_step) * m) / denominator;
  }
};

// Rectified Adam (Liu et al. 2020). `rectification` holds sqrt(1 - beta2^t) too; 0 while the
// variance is not tractable: then the step is that of the first moment alone.
struct RadamUpdate {
  static constexpr const char* name = "radam";
  static constexpr int kStates = 2;
  double gradient_scale, decay, parameter_scale;
  double beta1, beta2, epsilon;
  double step_size, rectification;
  template <class T>
  LOCKSTEP_HD void operator()(T& parameter, const T& gradient, T* state) const {
    const T p = parameter * T(parameter_scale);
    const T g = decayed(gradient, gradient_scale, parameter, decay);
    const T m = T(beta1) * state[0] + T(1 - beta1) * g;
    const T v = T(beta2) * state[1] + T(1 - beta2) * g * g;
    state[0] = m;
    state[1] = v;
    const T adapted = T(rectification) / (sqrt(v) + T(epsilon));
    parameter = p - T(step_size) * m * select(rectification != 0, adapted, T(1));
  }
};

// Adagrad (Duchi et al. 2011): the state is the sum of squares.
struct AdagradUpdate {
  static constexpr const char* name = "adagrad";
  static constexpr int kStates = 1;
  double gradient_scale, decay, rate, epsilon;
  template <class T>
  LOCKSTEP_HD void operator()(T& parameter, const T& gradient, T* sum) const {
    const T g = decayed(gradient, gradient_scale, parameter, decay);
    *sum += g * g;
    parameter -= T(rate) * g / (sqrt(*sum) + T(epsilon));
  }
};

// Adadelta (Zeiler 2012): the states are the averages of squared gradients and of squared steps.
struct AdadeltaUpdate {
  static constexpr const char* name = "adadelta";
  static constexpr int kStates = 2;
  double gradient_scale, decay, rate, rho, epsilon;
  template <class T>
  LOCKSTEP_HD void operator()(T& parameter, const T& gradient, T* state) const {
    const T g = decayed(gradient, gradient_scale, parameter, decay);
    const T v = T(rho) * state[0] + T(1 - rho) * g * g;
    const T delta = sqrt(state[1] + T(epsilon)) / sqrt(v + T(epsilon)) * g;
    state[0] = v;
    state[1] = T(rho) * state[1] + T(1 - rho) * delta * delta;
    parameter -= T(rate) * delta;
  }
};

// RMSprop (Hinton 2012). The states are the average of squares, then the average gradient where
// kCentered (Graves 2013), then the buffer where kMomentum.
template <bool kCentered, bool kMomentum>
struct RmspropUpdate {
  static constexpr const char* name = "rmsprop";
  static constexpr int kStates = 1 + (kCentered ? 1 : 0) + (kMomentum ? 1 : 0);
  double gradient_scale, decay, rate, alpha, epsilon, momentum;
  template <class T>
  LOCKSTEP_HD void operator()(T& parameter, const T& gradient, T* state) const {
    const T g = decayed(gradient, gradient_scale, parameter, decay);
    const T square = T(alpha) * state[0] + T(1 - alpha) * g * g;
    state[0] = square;
    T variance = square;
    if constexpr (kCentered) {
      const T mean = state[1] + T(1 - alpha) * (g - state[1]);
      state[1] = mean;
      variance = square - mean * mean;
    }
    T step = g / (sqrt(variance) + T(epsilon));
    if constexpr (kMomentum) {
      step += T(momentum) * state[kStates - 1];
      state[kStates - 1] = step;
    }
    parameter -= T(rate) * step;
  }
};

// Lion (Chen et al. 2023): the sign of an interpolated momentum. NaN has the sign 0.
struct LionUpdate {
  static constexpr const char* name = "lion";
  static constexpr int kStates = 1;
  double gradient_scale, parameter_scale, rate, beta1, beta2;
  template <class T>
  LOCKSTEP_HD void operator()(T& parameter, const T& gradient, T* momentum) const {
    const T g = gradient * T(gradient_scale);
    const T c = T(beta1) * *momentum + T(1 - beta1) * g;
    const T sign = select(c > T(0), T(1), select(c < T(0), T(-1), T(0)));
    *momentum = T(beta2) * *momentum + T(1 - beta2) * g;
    parameter = parameter * T(parameter_scale) - T(rate) * sign;
  }
};

// The direction r + decay * p of LAMB (You et al. 2020) into the third state; the parameter stays.
struct LambDirection {
  static constexpr const char* name = "lamb";
  static constexpr int kStates = 3;
  double gradient_scale, decay, beta1, beta2, epsilon;
  double inverse_correction, inverse_root;  // 1 / (1 - beta1^t), 1 / sqrt(1 - beta2^t)
  template <class T>
  LOCKSTEP_HD void operator()(T& parameter, const T& gradient, T* state) const {
    const T g = gradient * T(gradient_scale);
    const T m = T(beta1) * state[0] + T(1 - beta1) * g;
    const T v = T(beta2) * state[1] + T(1 - beta2) * g * g;
    state[0] = m;
    state[1] = v;
    const T adapted = m * T(inverse_correction) / (sqrt(v) * T(inverse_root) + T(epsilon));
    state[2] = decayed(adapted, 1, parameter, decay);
  }
};

// The momentum of Muon (Jordan 2024) and, into the second state, what is to be orthogonalized:
// g + nesterov * (m - g), where `nesterov` is the momentum again, or 1. The parameter stays.
struct MuonMomentum {
  static constexpr const char* name = "muon";
  static constexpr int kStates = 2;
  double gradient_scale, momentum, nesterov;
  template <class T>
  LOCKSTEP_HD void operator()(T&, const T& gradient, T* state) const {
    const T g = gradient * T(gradient_scale);
    const T m = T(momentum) * state[0] + T(1 - momentum) * g;
    state[0] = m;
    state[1] = select(nesterov != 1, g + T(nesterov) * (m - g), m);
  }
};

// A functor's data members, in the order of UpdateRun::constants.
template <class F>
inline constexpr int update_constants_of = static_cast<int>(sizeof(F) / sizeof(double));

namespace internal {
template <class F, size_t... kIndex>
LOCKSTEP_HD constexpr F make_update(const double* constants, std::index_sequence<kIndex...>) {
  return F{constants[kIndex]...};
}
}  // namespace internal

template <class F>
LOCKSTEP_HD constexpr F make_update(const double* constants) {
  return internal::make_update<F>(constants, std::make_index_sequence<update_constants_of<F>>{});
}

using UpdateOps =
    TypeList<SgdUpdate, MomentumUpdate, AdamUpdate<false>, AdamUpdate<true>, NadamUpdate,
             RadamUpdate, AdagradUpdate, AdadeltaUpdate, RmspropUpdate<false, false>,
             RmspropUpdate<false, true>, RmspropUpdate<true, false>, RmspropUpdate<true, true>,
             LionUpdate, LambDirection, MuonMomentum>;

}  // namespace lockstep::math
