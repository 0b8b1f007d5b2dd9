#pragma once

#include "lockstep/runtime/cpu/loops.h"

namespace lockstep::cpu {

// Matrix products on the calling thread alone; may be called from many at once. m, n, k > 0. f32 is
// oneDNN's, except in builds with plain kernels. f64 is our own: oneDNN has none, and Debian's
// OpenBLAS falls back to its oldest kernels on processors that it does not know.
void gemm(const Loops& loops, const Gemm& shape, const float* a, const float* b, float* c);
void gemm(const Loops& loops, const Gemm& shape, const double* a, const double* b, double* c);

}  // namespace lockstep::cpu
