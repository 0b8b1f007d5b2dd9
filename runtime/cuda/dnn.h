#pragma once

#include <memory>

#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep::cuda {

// Convolutions and attention by a library. The seam to cuDNN, behind which tests put a recorder. A
// call returns false where the library has nothing for these arguments: then nothing is queued.
class Dnn {
 public:
  virtual ~Dnn() = default;

  // Arguments as in Kernels.
  virtual bool convolution(const View& x, const View& w, const WindowOptions& options,
                           const View& y, Queue& queue) = 0;
  virtual bool convolution_input_gradient(const View& dy, const View& w,
                                          const WindowOptions& options, const View& dx, double beta,
                                          Queue& queue) = 0;
  virtual bool convolution_weight_gradient(const View& dy, const View& x,
                                           const WindowOptions& options, const View& dw,
                                           double beta, Queue& queue) = 0;
  virtual bool attention(const View& q, const View& k, const View& v,
                         const AttentionOptions& options, const View& out, const View& log_sum_exp,
                         Queue& queue) = 0;
  virtual bool attention_backward(const View& dout, const View& q, const View& k, const View& v,
                                  const View& out, const View& log_sum_exp,
                                  const AttentionOptions& options, const View& dq, const View& dk,
                                  const View& dv, Queue& queue) = 0;
};

std::unique_ptr<Dnn> make_dnn(int device);

}  // namespace lockstep::cuda
