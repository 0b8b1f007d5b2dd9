#pragma once

#include <memory>
#include <optional>

#include "lockstep/autograd/ops/activation.h"
#include "lockstep/autograd/tensor.h"

namespace lockstep {

// All take floating tensors of any strides; epsilon is added to the variance.

// Over dimension `dim`, from the end when negative; the rank-0 tensor has dimension 0 or -1.
Tensor softmax(const Tensor& x, int dim = -1);
Tensor log_softmax(const Tensor& x, int dim = -1);

// (x - mean) / sqrt(variance + epsilon) * weight + bias over the last dimensions, which are
// `normalized_shape` (Ba et al. 2016). weight and bias have that shape; either may be empty.
Tensor layer_norm(const Tensor& x, const Shape& normalized_shape, const Tensor& weight = {},
                  const Tensor& bias = {}, double epsilon = 1e-5);

struct AddLayerNorm {
  Tensor sum;
  Tensor normalized;
};
struct AddLayerNormOptions {
  double epsilon = 1e-5;
  // What reads `normalized` is a matrix product: under autocast it comes in autocast's 16-bit dtype
  // at once. Otherwise in that of layer_norm, f32.
  bool for_products = true;
};
// A residual stream and what is normalized of it, in one op: sum = x + delta, normalized =
// layer_norm(sum). delta has x's shape, is often of 16 bits beside an f32 x, and may be empty: then
// sum is x.
AddLayerNorm add_layer_norm(const Tensor& x, const Tensor& delta, const Shape& normalized_shape,
                            const Tensor& weight = {}, const Tensor& bias = {},
                            AddLayerNormOptions options = {});

// x / sqrt(mean(x^2) + epsilon) * weight over the last dimensions (Zhang & Sennrich 2019). epsilon:
// the machine epsilon of x's dtype unless given.
Tensor rms_norm(const Tensor& x, const Shape& normalized_shape, const Tensor& weight = {},
                std::optional<double> epsilon = {});

// Ranks whose batches are normalized as one. All of them make the same calls in the same order.
class StatisticsGroup {
 public:
  virtual ~StatisticsGroup() = default;
  // Every rank's `values` [elements] as [ranks, elements].
  virtual Array gather(const Array& values) = 0;
  // In place, over the ranks. Contiguous.
  virtual void sum(const Array& values) = 0;
};

struct BatchNormOptions {
  bool training = false;  // statistics of this batch, not the running ones
  double momentum = 0.1;
  double epsilon = 1e-5;
  // In training the batch is that of all ranks together, of which each may have any part or none.
  // x then gets the gradient of what the ranks add up to, weight and bias this rank's part of it.
  std::shared_ptr<StatisticsGroup> group = {};
  // activation(batch_norm(x) + residual) in one op, rounded once, where residual is of x's shape
  // and dtype; else in ops of their own. Backward makes the sign of relu's operand from x again or,
  // beside a residual, reads the result: it must not be changed then.
  Activation activation = Activation::none;
  Tensor residual = {};
};
// x [batch, channels, …]; weight, bias and the running statistics [channels], each may be empty
// (Ioffe & Szegedy 2015). Training normalizes with the biased variance and updates what is given in
// place: running = (1 - momentum) running + momentum * new, with the unbiased variance; one value
// per channel is an Error. Evaluation needs both running statistics.
Tensor batch_norm(const Tensor& x, const Array& running_mean, const Array& running_var,
                  const Tensor& weight = {}, const Tensor& bias = {},
                  BatchNormOptions options = {});

// x [batch, channels, …], normalized over each of `groups` runs of channels (Wu & He 2018); weight
// and bias [channels], each may be empty.
Tensor group_norm(const Tensor& x, int64_t groups, const Tensor& weight = {},
                  const Tensor& bias = {}, double epsilon = 1e-5);
// The same for each channel of each sample, which must have more than one value.
Tensor instance_norm(const Tensor& x, const Tensor& weight = {}, const Tensor& bias = {},
                     double epsilon = 1e-5);

}  // namespace lockstep
