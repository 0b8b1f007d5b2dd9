#pragma once

#include <utility>

#include "lockstep/autograd/ops/loss.h"
#include "lockstep/nn/module.h"

// The losses as layers of input and target; formulas are those of the functions.
namespace lockstep::nn {

struct CrossEntropyLoss : StatelessLayer<CrossEntropyLoss> {
  using Options = CrossEntropyOptions;
  explicit CrossEntropyLoss(Options options = {}) : options(std::move(options)) {}
  Tensor forward(const Tensor& input, const Tensor& target) {
    return cross_entropy(input, target, options);
  }

  Options options;
};

struct NLLLoss : StatelessLayer<NLLLoss> {
  using Options = NllLossOptions;
  explicit NLLLoss(Options options = {}) : options(std::move(options)) {}
  Tensor forward(const Tensor& input, const Tensor& target) {
    return nll_loss(input, target, options);
  }

  Options options;
};

struct MSELoss : StatelessLayer<MSELoss> {
  explicit MSELoss(Reduction reduction = Reduction::mean) : reduction(reduction) {}
  Tensor forward(const Tensor& input, const Tensor& target) {
    return mse_loss(input, target, reduction);
  }

  Reduction reduction;
};

struct L1Loss : StatelessLayer<L1Loss> {
  explicit L1Loss(Reduction reduction = Reduction::mean) : reduction(reduction) {}
  Tensor forward(const Tensor& input, const Tensor& target) {
    return l1_loss(input, target, reduction);
  }

  Reduction reduction;
};

struct SmoothL1Loss : StatelessLayer<SmoothL1Loss> {
  explicit SmoothL1Loss(Reduction reduction = Reduction::mean, double beta = 1)
      : reduction(reduction), beta(beta) {}
  Tensor forward(const Tensor& input, const Tensor& target) {
    return smooth_l1_loss(input, target, reduction, beta);
  }

  Reduction reduction;
  double beta;
};

struct HuberLoss : StatelessLayer<HuberLoss> {
  explicit HuberLoss(Reduction reduction = Reduction::mean, double delta = 1)
      : reduction(reduction), delta(delta) {}
  Tensor forward(const Tensor& input, const Tensor& target) {
    return huber_loss(input, target, reduction, delta);
  }

  Reduction reduction;
  double delta;
};

// Of probabilities.
struct BCELoss : StatelessLayer<BCELoss> {
  using Options = BinaryCrossEntropyOptions;
  explicit BCELoss(Options options = {}) : options(std::move(options)) {}
  Tensor forward(const Tensor& input, const Tensor& target) {
    return binary_cross_entropy(input, target, options);
  }

  Options options;
};

struct BCEWithLogitsLoss : StatelessLayer<BCEWithLogitsLoss> {
  using Options = BinaryCrossEntropyOptions;
  explicit BCEWithLogitsLoss(Options options = {}) : options(std::move(options)) {}
  Tensor forward(const Tensor& input, const Tensor& target) {
    return binary_cross_entropy_with_logits(input, target, options);
  }

  Options options;
};

struct KLDivLoss : StatelessLayer<KLDivLoss> {
  explicit KLDivLoss(Reduction reduction = Reduction::mean, bool log_target = false)
      : reduction(reduction), log_target(log_target) {}
  Tensor forward(const Tensor& input, const Tensor& target) {
    return kl_div(input, target, reduction, log_target);
  }

  Reduction reduction;
  bool log_target;
};

}  // namespace lockstep::nn
