#pragma once

// glibc has vector forms of these functions, which GCC only uses where a declaration says so, and
// glibc's headers say so under -ffast-math alone, which would break NaN and infinity. For files
// that are compiled for one instruction level.
#include <math.h>

#define LOCKSTEP_SIMD extern "C" __attribute__((simd("notinbranch")))
LOCKSTEP_SIMD float expf(float) noexcept;
LOCKSTEP_SIMD double exp(double) noexcept;
LOCKSTEP_SIMD float expm1f(float) noexcept;
LOCKSTEP_SIMD double expm1(double) noexcept;
LOCKSTEP_SIMD float logf(float) noexcept;
LOCKSTEP_SIMD double log(double) noexcept;
LOCKSTEP_SIMD float log1pf(float) noexcept;
LOCKSTEP_SIMD double log1p(double) noexcept;
LOCKSTEP_SIMD float log2f(float) noexcept;
LOCKSTEP_SIMD double log2(double) noexcept;
LOCKSTEP_SIMD float sinf(float) noexcept;
LOCKSTEP_SIMD double sin(double) noexcept;
LOCKSTEP_SIMD float cosf(float) noexcept;
LOCKSTEP_SIMD double cos(double) noexcept;
LOCKSTEP_SIMD float tanf(float) noexcept;
LOCKSTEP_SIMD double tan(double) noexcept;
LOCKSTEP_SIMD float asinf(float) noexcept;
LOCKSTEP_SIMD double asin(double) noexcept;
LOCKSTEP_SIMD float acosf(float) noexcept;
LOCKSTEP_SIMD double acos(double) noexcept;
LOCKSTEP_SIMD float atanf(float) noexcept;
LOCKSTEP_SIMD double atan(double) noexcept;
LOCKSTEP_SIMD float tanhf(float) noexcept;
LOCKSTEP_SIMD double tanh(double) noexcept;
LOCKSTEP_SIMD float sinhf(float) noexcept;
LOCKSTEP_SIMD double sinh(double) noexcept;
LOCKSTEP_SIMD float coshf(float) noexcept;
LOCKSTEP_SIMD double cosh(double) noexcept;
LOCKSTEP_SIMD float erff(float) noexcept;
LOCKSTEP_SIMD double erf(double) noexcept;
LOCKSTEP_SIMD float erfcf(float) noexcept;
LOCKSTEP_SIMD double erfc(double) noexcept;
LOCKSTEP_SIMD float powf(float, float) noexcept;
LOCKSTEP_SIMD double pow(double, double) noexcept;
LOCKSTEP_SIMD float atan2f(float, float) noexcept;
LOCKSTEP_SIMD double atan2(double, double) noexcept;
#undef LOCKSTEP_SIMD
