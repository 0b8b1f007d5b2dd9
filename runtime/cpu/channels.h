#pragma once

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep::cpu {

void channel_moments(const Loops& loops, const View& x, const View& mean, const View& variance);
void channel_norm(const View& mean, const View& variance, const ChannelNorm& norm);
void channel_norm_backward(const View& mean, const View& inverse, const View& scale,
                           const View& sum, const View& product_sum, double share,
                           const View& slope, const View& shift, const View& dweight);
void channel_affine(const Loops& loops, const View& x, const View& scale, const View& shift,
                    const View& residual, bool relu, const View& y);
void channel_gradient_sums(const Loops& loops, const View& dy, const View& x, const View& mean,
                           const ChannelGate& gate, const View& gated, const View& sum,
                           const View& product_sum);
void channel_input_gradient(const Loops& loops, const View& dy, const View& x, const View& scale,
                            const ChannelGate& gate, const View& slope, const View& shift,
                            const View& dx);

}  // namespace lockstep::cpu
