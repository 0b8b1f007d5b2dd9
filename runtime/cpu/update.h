#pragma once

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep::cpu {

void update(const Loops& loops, int op, const UpdateRun* runs, int count);

}  // namespace lockstep::cpu
