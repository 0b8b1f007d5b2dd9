#pragma once

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/dtype.h"

namespace lockstep::cpu {

// Matrix products on the calling thread alone; may be called from many at once. m, n, k > 0. f32 is
// oneDNN's, except in builds with plain kernels. f64 is our own: oneDNN has none, and Debian's
// OpenBLAS falls back to its oldest kernels on processors that it does not know.
void gemm(const Loops& loops, const Gemm& shape, const float* a, const float* b, float* c);
void gemm(const Loops& loops, const Gemm& shape, const double* a, const double* b, double* c);

// bf16 products with sums in f32, for processors with AVX-512 BF16 or AMX. alpha is 1.
void gemm(const Loops& loops, const Gemm& shape, const BFloat16* a, const BFloat16* b, BFloat16* c);
void gemm(const Loops& loops, const Gemm& shape, const BFloat16* a, const BFloat16* b, float* c);

// Whether products of this floating dtype are worth calling. Those of bf16 are with AMX: with
// AVX-512 alone oneDNN's took twice the time of f32 products (85 to 160 GFLOP/s on one thread),
// around which operands and result are converted. oneDNN 2 has none of f16.
bool multiplies_in(DType dtype);

}  // namespace lockstep::cpu
