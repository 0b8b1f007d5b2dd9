#pragma once

#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/kernels.h"

// Convolutions by kernels of our own, for any floating dtype, group size, strides and one to three
// spatial dimensions: matrix products whose operands are gathered as they are read (implicit GEMM).
// Sums are f32 (f64 for f64), their order depends on shapes alone. Arguments as in Kernels; all
// operands have elements.
namespace lockstep::cuda::own {

void convolution(const View& x, const View& w, const WindowOptions& options, const View& y,
                 Queue& queue);
void convolution_input_gradient(const View& dy, const View& w, const WindowOptions& options,
                                const View& dx, double beta, Queue& queue);
void convolution_weight_gradient(const View& dy, const View& x, const WindowOptions& options,
                                 const View& dw, double beta, Queue& queue);

}  // namespace lockstep::cuda::own
