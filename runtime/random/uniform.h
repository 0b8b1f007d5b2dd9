#pragma once

#include <cmath>

#include "lockstep/runtime/dtype.h"

namespace lockstep {

namespace internal {

template <class T>
double largest_below(double high) {
  T x(static_cast<float>(high));
  while (!(static_cast<float>(x) < high)) {  // once at most
    const bool negative = (x.bits & 0x8000u) != 0, zero = (x.bits & 0x7fffu) == 0;
    x.bits = static_cast<uint16_t>(zero ? 0x8001u : negative ? x.bits + 1u : x.bits - 1u);
  }
  return static_cast<float>(x);
}

}  // namespace internal

// What values of U[low, high) are cut at, so that none is rounded to `high`: the largest value
// below it in that dtype.
inline double last_of_uniform(double low, double high, DType dtype) {
  const bool is_range = low < high && std::isfinite(high);
  if (dtype == DType::bf16 && is_range) return internal::largest_below<BFloat16>(high);
  if (dtype == DType::f16 && is_range) return internal::largest_below<Float16>(high);
  if (dtype == DType::f32)
    return std::nextafterf(static_cast<float>(high), static_cast<float>(low));
  return std::nextafter(high, low);
}

}  // namespace lockstep
