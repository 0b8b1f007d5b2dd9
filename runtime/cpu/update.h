#pragma once

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep::cpu {

void adam(const Loops& loops, const UpdateRun* runs, int count, const AdamOptions& options);
void sgd(const Loops& loops, const UpdateRun* runs, int count, const SgdOptions& options);

}  // namespace lockstep::cpu
