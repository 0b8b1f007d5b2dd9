#pragma once

// Functions that both compilers read.
#if defined(__CUDACC__)
#define LOCKSTEP_HD __host__ __device__ __forceinline__
#else
#define LOCKSTEP_HD __attribute__((always_inline)) inline
#endif
