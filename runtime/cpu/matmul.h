#pragma once

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep::cpu {

// Kernels::matmul. f32 and f64 go to a library, tile by tile over parallel_for; 16-bit floats,
// too, where it is fast at them (multiplies_in), else they are converted to f32 around it; integers
// are multiplied by a plain loop. An f32 result of 16-bit operands is never rounded to 16 bits.
void matmul(const Loops& loops, const View& a, const View& b, const View& c, double beta);
// Kernels::linear.
void linear(const Loops& loops, const View& x, const View& w, const View& bias, const View& y);
void linear_activation(const Loops& loops, const View& x, const View& w, const View& bias,
                       Elementwise op, const View& before, const View& y);
void linear_activation_backward(const Loops& loops, const View& dy, const View& w, Elementwise op,
                                const View& before, const View& d, const View& dbias, double beta);
void linear_weight_gradient(const Loops& loops, const View& dy, const View& x, const View& dw,
                            const View& dbias, const double beta[2]);

}  // namespace lockstep::cpu
