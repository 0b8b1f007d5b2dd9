#pragma once

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep::cpu {

// The elementwise family of Kernels. f32 and f64 run in place where their windows are dense;
// other dtypes and strides are staged through blocks that fit the first-level cache. 16-bit floats
// compute in f32. Integers and bool compute in int64, and only what is exact there: other functors
// throw Error.
void unary(const Loops& loops, Elementwise op, const View& x, const View& y);
void unary_backward(const Loops& loops, Elementwise op, const View& x, const View& y,
                    const View& dy, const View& dx, double beta);
void binary(const Loops& loops, Elementwise op, const View& a, const View& b, const View& out);
void binary_backward(const Loops& loops, Elementwise op, int operand, const View& a, const View& b,
                     const View& out, const View& dy, const View& d, double beta);
void compare(const Loops& loops, Elementwise op, const View& a, const View& b, const View& out);
void where(const Loops& loops, const View& condition, const View& a, const View& b,
           const View& out);

void copy(const Loops& loops, const View& from, const View& to);
void fill(const Loops& loops, const View& to, double value);
void scale_add(const Loops& loops, double alpha, const View& x, double beta, const View& y);

// The loops on int64, with null where a functor has none.
const ElementwiseLoops& integer_loops();

}  // namespace lockstep::cpu
