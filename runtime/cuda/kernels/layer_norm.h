#pragma once

#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/kernels.h"

// Layer and RMS normalization of rows. Arguments as in Kernels. Parameter gradients are summed in
// an order that depends on the shape alone.
namespace lockstep::cuda {

void layer_norm(const View& x, const ResidualSum& residual, const View& weight, const View& bias,
                double epsilon, const View& y, const View& mean, const View& inverse_deviation,
                Queue& queue);
void layer_norm_backward(const View& dy, const View& x, const View& weight, const View& mean,
                         const View& inverse_deviation, const ResidualGradient& residual,
                         const View& dx, const View& dweight, const View& dbias,
                         const double beta[3], Queue& queue);
void rms_norm(const View& x, const View& weight, double epsilon, const View& y,
              const View& inverse_rms, Queue& queue);
void rms_norm_backward(const View& dy, const View& x, const View& weight, const View& inverse_rms,
                       const View& dx, const View& dweight, const double beta[2], Queue& queue);

}  // namespace lockstep::cuda
