#pragma once

#include "lockstep/runtime/cuda/queue.h"

#include "lockstep/runtime/kernels.h"

// Elementwise kernels. Arguments as in Kernels.
namespace lockstep::cuda {

void unary(Elementwise op, const View& x, const View& y, Queue& queue);
void unary_backward(Elementwise op, const View& x, const View& y, const View& dy, const View& dx,
                    double beta, Queue& queue);
void binary(Elementwise op, const View& a, const View& b, const View& out, Queue& queue);
void binary_backward(Elementwise op, int operand, const View& a, const View& b, const View& out,
                     const View& dy, const View& d, double beta, Queue& queue);
void compare(Elementwise op, const View& a, const View& b, const View& out, Queue& queue);
void where(const View& condition, const View& a, const View& b, const View& out, Queue& queue);
void copy(const View& from, const View& to, Queue& queue);
void fill(const View& to, double value, Queue& queue);
void scale_add(double alpha, const View& x, double beta, const View& y, Queue& queue);

}  // namespace lockstep::cuda
