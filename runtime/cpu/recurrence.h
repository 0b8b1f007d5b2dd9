#pragma once

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep::cpu {

void recurrence(const Loops& loops, const View& a, const View& b, int dim, bool reverse,
                const View& s);

}  // namespace lockstep::cpu
