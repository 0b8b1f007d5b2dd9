#pragma once

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep::cpu {

void convolution(const Loops& loops, const View& x, const View& w, const WindowOptions& options,
                 const View& y);
void convolution_input_gradient(const Loops& loops, const View& dy, const View& w,
                                const WindowOptions& options, const View& dx, double beta);
void convolution_weight_gradient(const Loops& loops, const View& dy, const View& x,
                                 const WindowOptions& options, const View& dw, double beta);

}  // namespace lockstep::cpu
