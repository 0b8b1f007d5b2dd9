#pragma once

#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/cuda/vendor/dnn_plans.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep::cuda {

enum class ConvolutionPass : uint8_t { forward, input_gradient, weight_gradient };

// Convolutions by cuDNN: f32 (not by TF32), bf16 and f16, summed in f32, by algorithms that give
// the same bits each time. Images that are neither channels-last nor contiguous, and weights that
// are not as the images are, go through copies.
class DnnConvolution {
 public:
  explicit DnnConvolution(DnnHandle& handle) : plans_(handle) {}

  // The operands of any of the three; the pass says which is the result. `beta` is of a gradient,
  // which is computed aside and then added. False as in Dnn.
  bool run(ConvolutionPass pass, const View& x, const View& w, const View& y,
           const WindowOptions& options, double beta, Queue& queue);

 private:
  DnnPlans plans_;
};

}  // namespace lockstep::cuda
