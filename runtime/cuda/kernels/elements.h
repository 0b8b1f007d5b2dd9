#pragma once

#include <cstdint>

#include "lockstep/runtime/cuda/access.h"
#include "lockstep/runtime/cuda/grid.h"
#include "lockstep/runtime/cuda/strided.h"

// Kernels whose threads take elements apart from each other.
namespace lockstep::cuda {

inline constexpr int kElementThreads = 256;

// Blocks for `items` that threads take one at a time: some for each multiprocessor, whose threads
// go on with other items.
inline int64_t blocks_for(int64_t items, const Queue& queue) {
  const int64_t blocks = (items + kElementThreads - 1) / kElementThreads;
  const int64_t most = int64_t{queue.multiprocessors()} * 16;
  return blocks < most ? blocks : most;
}

// body.one(i) for i in [0, count), count below 2^31.
template <class Each>
struct ElementsBody {
  static constexpr int kThreads = kElementThreads;
  static constexpr bool kCooperative = false;
  Each each;
  uint32_t count;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const auto step = static_cast<uint32_t>(t.blocks()) * kThreads;
    for (uint32_t i = static_cast<uint32_t>(t.block()) * kThreads + t.index(); i < count;
         i += step) {
      each.one(i);
    }
  }
};

template <class Each>
void launch_elements(const Each& each, int64_t count, Queue& queue) {
  launch(ElementsBody<Each>{each, static_cast<uint32_t>(count)},
         {.blocks = blocks_for(count, queue)}, queue);
}

inline bool is_aligned(const View& view) {
  return reinterpret_cast<uintptr_t>(view.data) % sizeof(Sixteen) == 0;
}

}  // namespace lockstep::cuda
