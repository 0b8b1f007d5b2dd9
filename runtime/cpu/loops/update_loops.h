#pragma once

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/math/update.h"

// Included by the per-level files only: internal linkage throughout.
namespace lockstep::cpu {
namespace {

// A function of its own: variables of the loop's body whose address is taken would keep it from
// being vectorised.
template <class F, class T>
LOCKSTEP_HD void update_one(const F& f, T& parameter, const T& gradient, T* const (&state)[3],
                            int64_t i) {
  T p = parameter;
  T s[3];
  for (int k = 0; k < F::kStates; ++k) s[k] = state[k][i];
  f(p, gradient, s);
  for (int k = 0; k < F::kStates; ++k) state[k][i] = s[k];
  parameter = p;
}

template <class F, class T>
void update_loop(const double* constants, T* parameter, const T* gradient, T* const* arrays,
                 int64_t n) {
  const F f = math::make_update<F>(constants);
  T* const state[3] = {arrays[0], arrays[1], arrays[2]};
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) update_one(f, parameter[i], gradient[i], state, i);
}

template <class T, class List>
struct UpdateTable;
template <class T, class... F>
struct UpdateTable<T, math::TypeList<F...>> {
  static constexpr UpdateLoop<T> loops[] = {update_loop<F, T>...};
};

}  // namespace
}  // namespace lockstep::cpu
