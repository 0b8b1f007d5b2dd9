#pragma once

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep::cpu {

void gather(const Loops& loops, const View& x, int dim, const View& index, const View& out);
void scatter_add(const Loops& loops, const View& x, int dim, const View& index, const View& out);
int64_t nonzero(const Loops& loops, const View& mask, const View& positions);

}  // namespace lockstep::cpu
