#pragma once

#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/kernels.h"

// Attention by the library (Dnn) where it has it, else by our own kernels, which the log tells once
// for each kind of problem. Arguments as in Kernels.
namespace lockstep::cuda {

void attention(const View& q, const View& k, const View& v, const AttentionOptions& options,
               const View& out, const View& log_sum_exp, Queue& queue);
void attention_backward(const View& dout, const View& q, const View& k, const View& v,
                        const View& out, const View& log_sum_exp, const AttentionOptions& options,
                        const View& dq, const View& dk, const View& dv, Queue& queue);

}  // namespace lockstep::cuda
