#pragma once

#include <cstdint>
#include <type_traits>

#include "lockstep/runtime/cuda/grid.h"
#include "lockstep/runtime/cuda/kernels/elements.h"
#include "lockstep/runtime/cuda/kernels/regions.h"

// The kernel of every elementwise function.
namespace lockstep::cuda {

// Elements that a thread has at once of functions from In to Out: 16 bytes of 16-bit values and of
// f64, and of bytes as many as there are of what goes with them.
template <class In, class Out>
inline constexpr int kItemsOf = std::is_same_v<In, double> || std::is_same_v<Out, double> ? 4 : 8;
template <>
inline constexpr int kItemsOf<double, double> = 2;
template <>
inline constexpr int kItemsOf<int64_t, int64_t> = 4;

// each(items) for all elements of a region, kItems at a time.
template <class Each, int kOperands, int kItems>
struct RegionBody {
  static constexpr int kThreads = kElementThreads;
  static constexpr bool kCooperative = false;
  Each each;
  Region<kOperands> region;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    constexpr uint32_t kTile = uint32_t{kThreads} * kItems;
    const auto thread = static_cast<uint32_t>(t.index());
    const uint32_t mine = region.packed ? thread * kItems : thread;
    const uint32_t spacing = region.packed ? 1 : kThreads;
    const uint32_t step = static_cast<uint32_t>(t.blocks()) * kTile;
    for (uint32_t i = static_cast<uint32_t>(t.block()) * kTile + mine; i < region.count;
         i += step) {
      each(Items<kOperands, kItems>(region, i, spacing));
    }
  }
};

template <int kItems, class Each, int kOperands>
void launch_region(const Each& each, const Region<kOperands>& region, Queue& queue) {
  const int64_t threads = (int64_t{region.count} + kItems - 1) / kItems;
  launch(RegionBody<Each, kOperands, kItems>{each, region}, {.blocks = blocks_for(threads, queue)},
         queue);
}

// Inputs first, the output last.
template <int kItems, class Each, int kOperands>
void launch_regions(const Each& each, const View* const (&operands)[kOperands], Queue& queue) {
  const Cut<kOperands> cut(operands, kItems);
  for (int64_t i = 0; i < cut.count(); ++i) launch_region<kItems>(each, cut.region(i), queue);
}

// out = function({inputs…}). A Function names its In, Out and kInputs.
template <class Function>
struct Map {
  static constexpr int kInputs = Function::kInputs;
  using In = typename Function::In;
  using Out = typename Function::Out;
  Function function;

  template <int kItems>
  LOCKSTEP_HD void operator()(const Items<kInputs + 1, kItems>& items) const {
    In in[kInputs][kItems];
    for (int k = 0; k < kInputs; ++k) items.load(k, in[k]);
    Out out[kItems];
    for (int j = 0; j < kItems; ++j) {
      In values[kInputs];
      for (int k = 0; k < kInputs; ++k) values[k] = in[k][j];
      out[j] = function(values);
    }
    items.store(kInputs, out);
  }
};

template <class Function, int kOperands>
void launch_map(const Function& function, const View* const (&operands)[kOperands], Queue& queue) {
  static_assert(kOperands == Function::kInputs + 1);
  launch_regions<kItemsOf<typename Function::In, typename Function::Out>>(Map<Function>{function},
                                                                          operands, queue);
}

}  // namespace lockstep::cuda
