#pragma once

#include <math.h>

#include <cstdint>

#include "lockstep/runtime/cuda/access.h"
#include "lockstep/runtime/cuda/grid.h"

// What kernels share whose threads find one value together.
namespace lockstep::cuda {

// The join of all lanes' values, for every lane. `join` is associative and commutative to the bit
// in pairs (a, b) and (b, a): then all lanes have the same bits.
template <class T, class Join>
LOCKSTEP_DEVICE T across_warp(const Thread& t, T value, const Join& join) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value = join(value, t.from_lane_xor(value, distance));
  }
  return value;
}

// Shared memory that across_block needs, for a block of `threads`.
template <class T>
constexpr int across_block_bytes(int threads) {
  return static_cast<int>(sizeof(T)) * (threads / kWarp);
}

// The join of all values of the block's `kThreads` threads, for every thread, in an order that
// depends on kThreads alone. `parts` is shared memory for one T a warp, free for other use after
// the next sync.
template <int kThreads, class T, class Join>
LOCKSTEP_DEVICE T across_block(const Thread& t, T value, T* parts, const Join& join) {
  value = across_warp(t, value, join);
  if constexpr (kThreads == kWarp) return value;
  t.sync();  // who still reads what was there before
  if (t.lane() == 0) parts[t.warp()] = value;
  t.sync();
  T total = parts[0];
  for (int i = 1; i < kThreads / kWarp; ++i) total = join(total, parts[i]);
  return total;
}

struct Sum {
  template <class T>
  LOCKSTEP_HD T operator()(const T& a, const T& b) const {
    return a + b;
  }
};

}  // namespace lockstep::cuda
