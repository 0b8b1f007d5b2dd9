#pragma once

#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep::cuda {

// Kernels::matmul: floating products by Blas, integer ones by a kernel of ours.
void matmul(const View& a, const View& b, const View& c, double beta, Queue& queue);
// Kernels::linear: the bias is added by the library's epilogue.
void linear(const View& x, const View& w, const View& bias, const View& y, Queue& queue);
// The same with what comes before or after, of Kernels; in the product's own kernel where the
// library has an epilogue for it.
void linear_activation(const View& x, const View& w, const View& bias, Elementwise op,
                       const View& before, const View& y, Queue& queue);
void linear_activation_backward(const View& dy, const View& w, Elementwise op, const View& before,
                                const View& d, const View& dbias, double beta, Queue& queue);
void linear_weight_gradient(const View& dy, const View& x, const View& dw, const View& dbias,
                            const double beta[2], Queue& queue);

}  // namespace lockstep::cuda
