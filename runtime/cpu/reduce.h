#pragma once

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep::cpu {

void reduce(const Loops& loops, ReduceOp op, const View& x, const View& y, double beta);
double sum_of_squares(const Loops& loops, const View& x);

}  // namespace lockstep::cpu
