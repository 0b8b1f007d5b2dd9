#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "lockstep/runtime/dtype.h"

// What the hosts of kernels share that make few values of many.
namespace lockstep::cuda {

inline constexpr int64_t kMostIndices = (int64_t{1} << 31) - 1;

inline int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Into what lengths, multiples of `shortest`, to cut `count` elements for `outputs` blocks without
// parts. A large device's number of blocks is not asked for but assumed, so that sums do not depend
// on the device.
inline int64_t part_length(int64_t count, int64_t outputs, int64_t shortest, int64_t longest) {
  constexpr int64_t kWantedBlocks = 1024;
  const int64_t wanted = divided_up(kWantedBlocks, outputs);
  const int64_t length = divided_up(divided_up(count, wanted), shortest) * shortest;
  return std::clamp(length, shortest, longest);
}

// Calls visit with a value of the type that totals of the dtype are carried in.
template <class Visit>
void with_total_type(DType dtype, const Visit& visit) {
  if (dtype == DType::f64) {
    visit(double{});
  } else if (is_floating(dtype)) {
    visit(float{});
  } else {
    visit(int64_t{});
  }
}

template <class C>
constexpr DType total_dtype() {
  return std::is_same_v<C, int64_t> ? DType::i64 : dtype_of<C>;
}

}  // namespace lockstep::cuda
