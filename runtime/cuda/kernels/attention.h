#pragma once

#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/kernels.h"

// Attention by kernels of our own, for any floating dtype, feature size and bias, without the
// matrix of probabilities (Dao et al. 2022, "FlashAttention"). Sums are f32 (f64 for f64), their
// order depends on shapes alone. Arguments as in Kernels; q, k and v have elements.
namespace lockstep::cuda::own {

void attention(const View& q, const View& k, const View& v, const AttentionOptions& options,
               const View& out, const View& log_sum_exp, Queue& queue);
void attention_backward(const View& dout, const View& q, const View& k, const View& v,
                        const View& out, const View& log_sum_exp, const AttentionOptions& options,
                        const View& dq, const View& dk, const View& dv, Queue& queue);

}  // namespace lockstep::cuda::own
