#pragma once

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep::cpu {

void max_pool(const Loops& loops, const View& x, const WindowOptions& options, const View& y,
              const View& index);
void max_pool_backward(const View& dy, const View& index, const View& dx);
void resample(const Loops& loops, const View& x, int dim, const SparseRows& matrix, const View& y);

}  // namespace lockstep::cpu
