#pragma once

#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/kernels.h"

// The cross entropy of rows of logits. Arguments as in Kernels.
namespace lockstep::cuda {

void cross_entropy(const View& logits, const View& targets, int64_t ignore, const View& loss,
                   const View& log_sum_exp, Queue& queue);
void mean_loss(const View& loss, const View& targets, int64_t ignore, const View& result,
               Queue& queue);
void cross_entropy_backward(const View& logits, const View& targets, int64_t ignore,
                            const View& log_sum_exp, const View& dloss, const View& dlogits,
                            double beta, Queue& queue);

}  // namespace lockstep::cuda
