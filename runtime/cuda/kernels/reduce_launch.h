#pragma once

#include "lockstep/runtime/cuda/kernels/reduce_bodies.h"
#include "lockstep/runtime/cuda/queue.h"

namespace lockstep::cuda {

// Of the innermost dimensions that are kept and reduced.
struct InnerSizes {
  int64_t kept, reduced;
};

// Finds which kernel, and what is `packed` and in `parts`. In reduce_sum.cu and reduce_extremes.cu,
// for float, double and int64_t.
template <class Join, class C>
void launch_reduction(const Reduction<C>& reduction, const InnerSizes& inner, Queue& queue);

}  // namespace lockstep::cuda
