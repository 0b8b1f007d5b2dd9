#pragma once

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/math/functor.h"

// Included by the per-level files only: internal linkage throughout.
namespace lockstep::cpu {
namespace {

template <class T>
void adam_loop(T* parameter, const T* gradient, T* m, T* v, int64_t n, const AdamConstants& c) {
  const T keep1 = static_cast<T>(c.beta1);
  const T share1 = static_cast<T>(1 - c.beta1);
  const T keep2 = static_cast<T>(c.beta2);
  const T share2 = static_cast<T>(1 - c.beta2);
  const T step_size = static_cast<T>(c.step_size);
  const T inverse_root = static_cast<T>(c.inverse_root);
  const T epsilon = static_cast<T>(c.epsilon);
  const T gradient_scale = static_cast<T>(c.gradient_scale);
  const T parameter_scale = static_cast<T>(c.parameter_scale);
  const T decay = static_cast<T>(c.decay);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const T g = gradient[i] * gradient_scale + decay * parameter[i];
    const T m_i = keep1 * m[i] + share1 * g;
    const T v_i = keep2 * v[i] + share2 * g * g;
    m[i] = m_i;
    v[i] = v_i;
    const T denominator = math::sqrt(v_i) * inverse_root + epsilon;
    parameter[i] = parameter[i] * parameter_scale - step_size * m_i / denominator;
  }
}

template <class T>
void sgd_loop(T* parameter, const T* gradient, T* buffer, int64_t n, const SgdConstants& c) {
  const T rate = static_cast<T>(c.learning_rate);
  const T momentum = static_cast<T>(c.momentum);
  const T share = static_cast<T>(c.gradient_share);
  const T gradient_scale = static_cast<T>(c.gradient_scale);
  const T decay = static_cast<T>(c.decay);
  if (c.momentum == 0 || buffer == nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      parameter[i] -= rate * (gradient[i] * gradient_scale + decay * parameter[i]);
    }
    return;
  }
  const T keep = c.first_step ? T(0) : momentum;
  const T direct = c.nesterov ? T(1) : T(0);
  const T through_buffer = c.nesterov ? momentum : T(1);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const T g = gradient[i] * gradient_scale + decay * parameter[i];
    const T old = keep == T(0) ? T(0) : keep * buffer[i];  // not initialised at the first step
    const T b = old + share * g;
    buffer[i] = b;
    parameter[i] -= rate * (direct * g + through_buffer * b);
  }
}

template <class T>
constexpr UpdateLoops<T> update_loops() {
  return {.adam = adam_loop<T>, .sgd = sgd_loop<T>};
}

}  // namespace
}  // namespace lockstep::cpu
