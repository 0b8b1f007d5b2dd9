#pragma once

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep::cpu {

void channel_moments(const Loops& loops, const View& x, const View& mean, const View& variance);
void channel_affine(const Loops& loops, const View& x, const View& scale, const View& shift,
                    const View& dy, const View& dy_scale, const View& y);
void channel_gradient_sums(const Loops& loops, const View& dy, const View& x, const View& mean,
                           const View& sum, const View& product_sum);

}  // namespace lockstep::cpu
