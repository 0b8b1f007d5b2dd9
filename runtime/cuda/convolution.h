#pragma once

#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/kernels.h"

// Convolutions by the library (Dnn) where it has them, else by our own kernels, which the log tells
// once for each kind of problem. Arguments as in Kernels.
namespace lockstep::cuda {

void convolution(const View& x, const View& w, const WindowOptions& options, const View& y,
                 Queue& queue);
void convolution_input_gradient(const View& dy, const View& w, const WindowOptions& options,
                                const View& dx, double beta, Queue& queue);
void convolution_weight_gradient(const View& dy, const View& x, const WindowOptions& options,
                                 const View& dw, double beta, Queue& queue);

}  // namespace lockstep::cuda
