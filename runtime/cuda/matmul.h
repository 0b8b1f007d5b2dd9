#pragma once

#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep::cuda {

// Kernels::matmul: floating products by Blas, integer ones by a kernel of ours.
void matmul(const View& a, const View& b, const View& c, double beta, Queue& queue);
// Kernels::linear: the bias is added by the library's epilogue.
void linear(const View& x, const View& w, const View& bias, const View& y, Queue& queue);

}  // namespace lockstep::cuda
