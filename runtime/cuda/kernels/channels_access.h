#pragma once

#include <cstdint>

#include "lockstep/runtime/cuda/kernels/operand.h"
#include "lockstep/runtime/dtype.h"

// Values of channels: one, or a pack of neighbours. The storage type T of packs is known at compile
// time, so that the loads of several places are on their way together.
namespace lockstep::cuda {

template <class T, class C, int kWide>
LOCKSTEP_HD void read_channels(const Operand& from, int64_t at, C (&out)[kWide]) {
  if constexpr (kWide == kPack) {
    load_pack(from.data, dtype_of<T>, at, out);
  } else {
    out[0] = from.get<C>(at);
  }
}

template <class T, class C, int kWide>
LOCKSTEP_HD void write_channels(const Operand& to, int64_t at, const C (&values)[kWide]) {
  if constexpr (kWide == kPack) {
    store_pack(to.data, dtype_of<T>, at, values);
  } else {
    to.put<C>(at, values[0]);
  }
}

// Of `count` packs of 16-bit values as many bytes in packs of T.
template <class T>
constexpr int as_many_bytes(int count) {
  return sizeof(T) == 2 || count == 1 ? count : count / 2;
}

// Calls visit with a value of the type that sums over a channel of the dtype are carried in.
template <class Visit>
void with_statistics_type(DType dtype, const Visit& visit) {
  if (dtype == DType::f64) {
    visit(double{});
  } else {
    visit(float{});
  }
}

}  // namespace lockstep::cuda
