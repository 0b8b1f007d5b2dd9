#pragma once

#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/kernels.h"

// Kernels that make few values of many. Arguments as in Kernels.
namespace lockstep::cuda {

void reduce(ReduceOp op, const View& x, const View& y, double beta, Queue& queue);
void arg_reduce(bool largest, const View& x, int dim, const View& index, Queue& queue);
void recurrence(const View& a, const View& b, int dim, bool reverse, const View& s, Queue& queue);

double sum_of_squares(const View& x, Queue& queue);
void sums_of_squares(const View* x, int count, double* sums, Queue& queue);

}  // namespace lockstep::cuda
