#pragma once

#include "lockstep/runtime/cuda/kernels/regions.h"
#include "lockstep/runtime/cuda/queue.h"

namespace lockstep::cuda {

// Copies a region whose input lies along another dimension than its output, of one dtype or between
// f32 and 16-bit floats. Returns false, and does nothing, if the region is another.
bool transpose(const Region<2>& region, Queue& queue);

}  // namespace lockstep::cuda
