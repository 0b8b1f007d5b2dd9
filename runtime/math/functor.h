#pragma once

#include <math.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "lockstep/runtime/host_device.h"

// The maths of elementwise ops, read by both compilers. A functor has a name, a value and a
// derivative, written once and generic in its operand type T: float, double and (some) int64_t in
// kernels, Probe to find what a derivative reads, and autograd's Tensor to record a derivative as a
// formula. So literals are T(0.5), conditions are joined with `&`, branches are
// select(condition, a, b), and a branch that may be infinite gets a safe operand inside.

namespace lockstep::math {

template <class... F>
struct TypeList {
  static constexpr int size = sizeof...(F);
};

namespace internal {
template <class F, class... G>
constexpr int index_in(TypeList<G...>) {
  const bool found[] = {std::is_same_v<F, G>...};
  for (int i = 0; i < static_cast<int>(sizeof...(G)); ++i) {
    if (found[i]) return i;
  }
  return -1;
}
}  // namespace internal

// The place of F in its list: its index in every device's table.
template <class List, class F>
inline constexpr int index_of = internal::index_in<F>(List{});

// Calls f.template operator()<F>() for every functor of a list, in order.
template <class... F, class Visit>
constexpr void for_each(TypeList<F...>, Visit&& visit) {
  (visit.template operator()<F>(), ...);
}

// What `grad` returns: df/d(operand), one an operand.
template <class T, int N>
struct Partials {
  T values[N];
  LOCKSTEP_HD constexpr const T& operator[](int i) const { return values[i]; }
};
template <class T, class... U>
Partials(T, U...) -> Partials<T, 1 + static_cast<int>(sizeof...(U))>;

// Attributes are a functor's data members, all double, in order.
template <class F>
inline constexpr int attributes_of = std::is_empty_v<F>
                                         ? 0
                                         : static_cast<int>(sizeof(F) / sizeof(double));

template <class F>
LOCKSTEP_HD constexpr F make_functor(const double* attributes) {
  static_assert(attributes_of<F> <= 2);
  if constexpr (attributes_of<F> == 2) {
    return F{attributes[0], attributes[1]};
  } else if constexpr (attributes_of<F> == 1) {
    return F{attributes[0]};
  } else {
    return F{};
  }
}

// The standard library's functions for float and double. Other operand types bring their own,
// found by argument-dependent lookup.
LOCKSTEP_HD float exp(float x) { return ::expf(x); }
LOCKSTEP_HD double exp(double x) { return ::exp(x); }
LOCKSTEP_HD float expm1(float x) { return ::expm1f(x); }
LOCKSTEP_HD double expm1(double x) { return ::expm1(x); }
LOCKSTEP_HD float log(float x) { return ::logf(x); }
LOCKSTEP_HD double log(double x) { return ::log(x); }
LOCKSTEP_HD float log1p(float x) { return ::log1pf(x); }
LOCKSTEP_HD double log1p(double x) { return ::log1p(x); }
LOCKSTEP_HD float log2(float x) { return ::log2f(x); }
LOCKSTEP_HD double log2(double x) { return ::log2(x); }
LOCKSTEP_HD float sqrt(float x) { return ::sqrtf(x); }
LOCKSTEP_HD double sqrt(double x) { return ::sqrt(x); }
LOCKSTEP_HD float sin(float x) { return ::sinf(x); }
LOCKSTEP_HD double sin(double x) { return ::sin(x); }
LOCKSTEP_HD float cos(float x) { return ::cosf(x); }
LOCKSTEP_HD double cos(double x) { return ::cos(x); }
LOCKSTEP_HD float tan(float x) { return ::tanf(x); }
LOCKSTEP_HD double tan(double x) { return ::tan(x); }
LOCKSTEP_HD float asin(float x) { return ::asinf(x); }
LOCKSTEP_HD double asin(double x) { return ::asin(x); }
LOCKSTEP_HD float acos(float x) { return ::acosf(x); }
LOCKSTEP_HD double acos(double x) { return ::acos(x); }
LOCKSTEP_HD float atan(float x) { return ::atanf(x); }
LOCKSTEP_HD double atan(double x) { return ::atan(x); }
LOCKSTEP_HD float tanh(float x) { return ::tanhf(x); }
LOCKSTEP_HD double tanh(double x) { return ::tanh(x); }
LOCKSTEP_HD float sinh(float x) { return ::sinhf(x); }
LOCKSTEP_HD double sinh(double x) { return ::sinh(x); }
LOCKSTEP_HD float cosh(float x) { return ::coshf(x); }
LOCKSTEP_HD double cosh(double x) { return ::cosh(x); }
LOCKSTEP_HD float erf(float x) { return ::erff(x); }
LOCKSTEP_HD double erf(double x) { return ::erf(x); }
LOCKSTEP_HD float erfc(float x) { return ::erfcf(x); }
LOCKSTEP_HD double erfc(double x) { return ::erfc(x); }
LOCKSTEP_HD float pow(float x, float y) { return ::powf(x, y); }
LOCKSTEP_HD double pow(double x, double y) { return ::pow(x, y); }
LOCKSTEP_HD float atan2(float y, float x) { return ::atan2f(y, x); }
LOCKSTEP_HD double atan2(double y, double x) { return ::atan2(y, x); }
LOCKSTEP_HD float floor(float x) { return ::floorf(x); }
LOCKSTEP_HD double floor(double x) { return ::floor(x); }
LOCKSTEP_HD float ceil(float x) { return ::ceilf(x); }
LOCKSTEP_HD double ceil(double x) { return ::ceil(x); }
// Halves go to the even neighbour.
LOCKSTEP_HD float round(float x) { return ::rintf(x); }
LOCKSTEP_HD double round(double x) { return ::rint(x); }

LOCKSTEP_HD float trunc(float x) { return ::truncf(x); }
LOCKSTEP_HD double trunc(double x) { return ::trunc(x); }
LOCKSTEP_HD float fmod(float x, float y) { return ::fmodf(x, y); }
LOCKSTEP_HD double fmod(double x, double y) { return ::fmod(x, y); }
LOCKSTEP_HD float sigmoid(float x) { return 1 / (1 + ::expf(-x)); }
LOCKSTEP_HD double sigmoid(double x) { return 1 / (1 + ::exp(-x)); }

// condition ? a : b, both evaluated.
LOCKSTEP_HD constexpr float select(bool condition, float a, float b) { return condition ? a : b; }
LOCKSTEP_HD constexpr double select(bool condition, double a, double b) {
  return condition ? a : b;
}
LOCKSTEP_HD constexpr int64_t select(bool condition, int64_t a, int64_t b) {
  return condition ? a : b;
}

}  // namespace lockstep::math
