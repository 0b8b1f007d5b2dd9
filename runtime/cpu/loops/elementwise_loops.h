#pragma once

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/math/binary.h"
#include "lockstep/runtime/math/compare.h"
#include "lockstep/runtime/math/probe.h"
#include "lockstep/runtime/math/unary.h"

// Included by the per-level files only, so everything has internal linkage: a function compiled for
// a higher level must never be the one that the linker keeps for all.
namespace lockstep::cpu {
namespace {

template <class F, class T>
void unary_loop(const double* attributes, const void* const* inputs, void* output, int64_t n) {
  const F f = math::make_functor<F>(attributes);
  const T* x = static_cast<const T*>(inputs[0]);
  T* y = static_cast<T*>(output);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = f(x[i]);
}

template <class F, class T>
void unary_backward_loop(const double* attributes, const void* const* inputs, void* output,
                         int64_t n) {
  constexpr math::Reads kReads = math::reads_of<F>();
  const F f = math::make_functor<F>(attributes);
  const T* x = static_cast<const T*>(inputs[0]);
  const T* y = static_cast<const T*>(inputs[1]);
  const T* dy = static_cast<const T*>(inputs[2]);
  T* dx = static_cast<T*>(output);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const T x_i = kReads.a ? x[i] : T(0);
    const T y_i = kReads.out ? y[i] : T(0);
    dx[i] = f.grad(x_i, y_i)[0] * dy[i];
  }
}

template <class F, class T>
void binary_loop(const double*, const void* const* inputs, void* output, int64_t n) {
  const T* a = static_cast<const T*>(inputs[0]);
  const T* b = static_cast<const T*>(inputs[1]);
  T* out = static_cast<T*>(output);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = F{}(a[i], b[i]);
}

template <class F, int kOperand, class T>
void binary_backward_loop(const double*, const void* const* inputs, void* output, int64_t n) {
  constexpr math::Reads kReads = math::reads_of<F>(kOperand);
  const T* a = static_cast<const T*>(inputs[0]);
  const T* b = static_cast<const T*>(inputs[1]);
  const T* out = static_cast<const T*>(inputs[2]);
  const T* dy = static_cast<const T*>(inputs[3]);
  T* d = static_cast<T*>(output);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const T a_i = kReads.a ? a[i] : T(0);
    const T b_i = kReads.b ? b[i] : T(0);
    const T out_i = kReads.out ? out[i] : T(0);
    d[i] = F{}.grad(a_i, b_i, out_i)[kOperand] * dy[i];
  }
}

template <class F, class T>
void compare_loop(const double*, const void* const* inputs, void* output, int64_t n) {
  const T* a = static_cast<const T*>(inputs[0]);
  const T* b = static_cast<const T*>(inputs[1]);
  uint8_t* out = static_cast<uint8_t*>(output);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = F{}(a[i], b[i]) ? 1 : 0;
}

template <class T>
void where_loop(const double*, const void* const* inputs, void* output, int64_t n) {
  const uint8_t* condition = static_cast<const uint8_t*>(inputs[0]);
  const T* a = static_cast<const T*>(inputs[1]);
  const T* b = static_cast<const T*>(inputs[2]);
  T* out = static_cast<T*>(output);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const T a_i = a[i];
    const T b_i = b[i];
    out[i] = condition[i] != 0 ? a_i : b_i;
  }
}

template <class T>
void scale_add_loop(const double* attributes, const void* const* inputs, void* output, int64_t n) {
  const T alpha = static_cast<T>(attributes[0]);
  const T beta = static_cast<T>(attributes[1]);
  const T* x = static_cast<const T*>(inputs[0]);
  const T* y = static_cast<const T*>(inputs[1]);
  T* out = static_cast<T*>(output);
  if (beta == 0) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) out[i] = alpha * x[i];
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) out[i] = alpha * x[i] + beta * y[i];
  }
}

template <class T, class List>
struct UnaryTable;
template <class T, class... F>
struct UnaryTable<T, math::TypeList<F...>> {
  static constexpr ElementwiseLoop forward[] = {unary_loop<F, T>...};
  static constexpr ElementwiseLoop backward[] = {unary_backward_loop<F, T>...};
};

template <class T, class List>
struct BinaryTable;
template <class T, class... F>
struct BinaryTable<T, math::TypeList<F...>> {
  static constexpr ElementwiseLoop forward[] = {binary_loop<F, T>...};
  static constexpr ElementwiseLoop backward_a[] = {binary_backward_loop<F, 0, T>...};
  static constexpr ElementwiseLoop backward_b[] = {binary_backward_loop<F, 1, T>...};
};

template <class T, class List>
struct CompareTable;
template <class T, class... F>
struct CompareTable<T, math::TypeList<F...>> {
  static constexpr ElementwiseLoop forward[] = {compare_loop<F, T>...};
};

template <class T>
constexpr ElementwiseLoops elementwise_loops() {
  using Unary = UnaryTable<T, math::UnaryOps>;
  using Binary = BinaryTable<T, math::BinaryOps>;
  return {.unary = Unary::forward,
          .unary_backward = Unary::backward,
          .binary = Binary::forward,
          .binary_backward = {Binary::backward_a, Binary::backward_b},
          .compare = CompareTable<T, math::CompareOps>::forward,
          .where = where_loop<T>,
          .scale_add = scale_add_loop<T>};
}

}  // namespace
}  // namespace lockstep::cpu
