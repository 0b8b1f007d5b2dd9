#pragma once

#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/kernels.h"

// Kernels::update: one launch for up to kRunsPerLaunch runs of one dtype.
namespace lockstep::cuda {

void update(int op, const UpdateRun* runs, int count, Queue& queue);

}  // namespace lockstep::cuda
