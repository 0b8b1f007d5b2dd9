#pragma once

#include "lockstep/autograd/tensor.h"

namespace lockstep {

// batchmean: the sum over the first extent; kl_div only.
enum class Reduction { mean, sum, none, batchmean };

struct CrossEntropyOptions {
  Tensor weight = {};           // [classes]
  int64_t ignore_index = -100;  // targets that count nothing
  double label_smoothing = 0;   // in [0, 1]
  Reduction reduction = Reduction::mean;
};
// logits [classes], [batch, classes] or [batch, classes, …]; targets are class indices (i64; the
// logits' shape without classes) or probabilities (the logits' shape; differentiable too). The mean
// is over the weights of the targets that are not ignored, or over the targets when they are
// probabilities.
Tensor cross_entropy(const Tensor& logits, const Tensor& targets, CrossEntropyOptions options = {});

struct NllLossOptions {
  Tensor weight = {};  // [classes]
  int64_t ignore_index = -100;
  Reduction reduction = Reduction::mean;
};
// Negative log-likelihood: cross_entropy of log-probabilities against class indices.
Tensor nll_loss(const Tensor& log_probabilities, const Tensor& targets,
                NllLossOptions options = {});

// The rest: x and target broadcast, and have gradients both.

// (x - target)^2
Tensor mse_loss(const Tensor& x, const Tensor& target, Reduction reduction = Reduction::mean);
// |x - target|
Tensor l1_loss(const Tensor& x, const Tensor& target, Reduction reduction = Reduction::mean);
// With d = |x - target|: d^2 / (2 beta) below beta, d - beta / 2 above.
Tensor smooth_l1_loss(const Tensor& x, const Tensor& target, Reduction reduction = Reduction::mean,
                      double beta = 1);
// d^2 / 2 below delta, delta (d - delta / 2) above.
Tensor huber_loss(const Tensor& x, const Tensor& target, Reduction reduction = Reduction::mean,
                  double delta = 1);

struct BinaryCrossEntropyOptions {
  Tensor weight = {};      // broadcasts to x
  Tensor pos_weight = {};  // with logits only: of the positive term, broadcasts to x
  Reduction reduction = Reduction::mean;
};
// -(target log x + (1 - target) log(1 - x)), logarithms held at -100 or above. x in [0, 1] has
// target's shape.
Tensor binary_cross_entropy(const Tensor& x, const Tensor& target,
                            BinaryCrossEntropyOptions options = {});
// The same of sigmoid(x), without overflow.
Tensor binary_cross_entropy_with_logits(const Tensor& x, const Tensor& target,
                                        BinaryCrossEntropyOptions options = {});

// target (log target - x), x log-probabilities; exp(target) (target - x) with `log_target`. A
// target of 0 adds 0.
Tensor kl_div(const Tensor& x, const Tensor& target, Reduction reduction = Reduction::mean,
              bool log_target = false);

}  // namespace lockstep
