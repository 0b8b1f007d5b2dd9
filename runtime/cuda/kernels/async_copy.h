#pragma once

#include <cstdint>

#include "lockstep/runtime/cuda/grid.h"

// Copies from the device's memory to shared memory that are on their way while the thread goes on:
// what is asked for is not held in registers meanwhile. Before compute capability 8.0, and on the
// host, they are done at once.
namespace lockstep::cuda {

// Of kBytes, 4 or 16, to and from multiples of that; zeros, for which nothing is read, where it is
// not `inside`.
template <int kBytes>
LOCKSTEP_DEVICE void copy_ahead(void* shared, const void* from, bool inside) {
  static_assert(kBytes == 4 || kBytes == 16);
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int outside = inside ? 0 : 1;
  if constexpr (kBytes == 16) {
    asm volatile(
        "{.reg .pred p; setp.ne.s32 p, %2, 0; cp.async.cg.shared.global [%0], [%1], 16, p;}" ::"r"(
            to),
        "l"(from), "r"(outside)
        : "memory");
  } else {
    asm volatile(
        "{.reg .pred p; setp.ne.s32 p, %2, 0; cp.async.ca.shared.global [%0], [%1], 4, p;}" ::"r"(
            to),
        "l"(from), "r"(outside)
        : "memory");
  }
#else
  if (inside) {
    __builtin_memcpy(shared, from, kBytes);
  } else {
    __builtin_memset(shared, 0, kBytes);
  }
#endif
}

// The thread's copies since the last call are one batch.
LOCKSTEP_DEVICE void end_batch() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Until all of the thread's batches but the last kMost have arrived. Other threads see them after
// they have waited for this one.
template <int kMost>
LOCKSTEP_DEVICE void wait_for_batches() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kMost) : "memory");
#endif
}

}  // namespace lockstep::cuda
