#pragma once

#include <cstdint>
#include <type_traits>

#include "lockstep/runtime/cuda/kernels/row_values.h"

// Which threads share rows that are kept in registers beside sums of their columns.
namespace lockstep::cuda {

// Threads for rows of up to kWidth values, each with as few as one access has.
template <class S, int kWidth>
struct NarrowGroup {
  static constexpr int kElements = kPerSixteen<S> < 4 ? 4 : kPerSixteen<S>;
  using type = RowGroup<(kWidth / kElements + kWarp - 1) / kWarp * kWarp, kElements>;
};

// Calls f(group, parts at most) with the RowGroup for rows of this width, and as many parts as a
// large device has room for at a time; false where they are too wide to be kept beside the
// parameters' sums.
template <class S, class F>
bool with_summing_group(int64_t width, const F& f) {
  if (width <= 256) return f(RowGroup<32, 8>{}, 2112), true;
  if (width <= 512) return f(typename NarrowGroup<S, 512>::type{}, 1056), true;
  if (width <= 768) return f(typename NarrowGroup<S, 768>::type{}, 792), true;
  if (width <= 1024) return f(typename NarrowGroup<S, 1024>::type{}, 528), true;
  if (width <= 1280) return f(typename NarrowGroup<S, 1280>::type{}, 396), true;
  if (width <= 1664) return f(typename NarrowGroup<S, 1664>::type{}, 264), true;
  if (width <= 2048) return f(typename NarrowGroup<S, 2048>::type{}, 264), true;
  if (width <= 4096) return f(RowGroup<512, 8>{}, 264), true;
  if constexpr (!std::is_same_v<S, double>) {
    if (width <= kWidestKept) return f(RowGroup<512, 16>{}, 264), true;
  }
  return false;
}

}  // namespace lockstep::cuda
