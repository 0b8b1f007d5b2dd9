#pragma once

#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/view.h"

namespace lockstep::cuda {

// Kernels::matmul of integers, exact in 64 bits: for counting and indices, not for speed.
void integer_matmul(const View& a, const View& b, const View& c, double beta, Queue& queue);

}  // namespace lockstep::cuda
