#pragma once

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/view.h"

namespace lockstep::cpu {

// Kernels::matmul. f32 and f64 go to a library, tile by tile over parallel_for; 16-bit floats,
// too, where it is fast at them (multiplies_in), else they are converted to f32 around it; integers
// are multiplied by a plain loop.
void matmul(const Loops& loops, const View& a, const View& b, const View& c, double beta);
// Kernels::linear.
void linear(const Loops& loops, const View& x, const View& w, const View& bias, const View& y);

}  // namespace lockstep::cpu
