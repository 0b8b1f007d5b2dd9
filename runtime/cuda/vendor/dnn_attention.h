#pragma once

#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/cuda/vendor/dnn_plans.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep::cuda {

// Attention by cuDNN's fused graphs: bf16 and f16, without a bias. Gradients by the deterministic
// algorithm. Arguments and results as in Dnn.
class DnnAttention {
 public:
  explicit DnnAttention(DnnHandle& handle) : plans_(handle) {}

  bool forward(const View& q, const View& k, const View& v, const AttentionOptions& options,
               const View& out, const View& log_sum_exp, Queue& queue);
  bool backward(const View& dout, const View& q, const View& k, const View& v, const View& out,
                const View& log_sum_exp, const AttentionOptions& options, const View& dq,
                const View& dk, const View& dv, Queue& queue);

 private:
  DnnPlans plans_;
};

}  // namespace lockstep::cuda
