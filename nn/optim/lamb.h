#pragma once

#include "lockstep/nn/optim/optimizer.h"

namespace lockstep::optim {

struct LambOptions {
  double learning_rate = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-6;
  double weight_decay = 0.01;
  bool maximize = false;

  void check(std::span<const nn::Parameter>) const;
};

// LAMB (You et al. 2020, "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
// Algorithm 2, with phi the identity): Adam's bias-corrected direction plus the decayed parameter,
// u = m / (sqrt(v) + epsilon) + weight_decay p, its length made that of the parameter,
// p -= lr |p| / |u| u, for each parameter by itself (lr u where either length is 0).
class Lamb final : public GroupedOptimizer<LambOptions> {
 public:
  using GroupedOptimizer::GroupedOptimizer;

 private:
  std::vector<StateKind> state_kinds(int group) const override;
  void prepare(Item& item) override;
  void finish(std::span<const Item> items) override;
};

}  // namespace lockstep::optim
