#pragma once

#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/kernels.h"

// Softmax and its logarithm over rows. Arguments as in Kernels.
namespace lockstep::cuda {

void softmax(const View& x, const View& y, bool log, Queue& queue);
void softmax_backward(const View& y, const View& dy, const View& dx, bool log, double beta,
                      Queue& queue);

}  // namespace lockstep::cuda
