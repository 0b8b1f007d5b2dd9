#pragma once

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep::cpu {

void arg_reduce(const Loops& loops, bool largest, const View& x, int dim, const View& index);
void sort(const Loops& loops, const View& x, bool descending, const View& index);

}  // namespace lockstep::cpu
