#pragma once

#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/kernels.h"

// Random numbers: the counters of the CPU's kernels. Dropout (with beta 0) and uniform fills have
// the CPU's bits, normal ones differ by the rounding of log, sin and cos. Arguments as in Kernels.
namespace lockstep::cuda {

void dropout(const View& x, double p, RandomKey key, const View& y, double beta, Queue& queue);
void uniform(const View& y, double low, double high, RandomKey key, uint64_t first, Queue& queue);
void normal(const View& y, double mean, double deviation, RandomKey key, uint64_t first,
            Queue& queue);

}  // namespace lockstep::cuda
