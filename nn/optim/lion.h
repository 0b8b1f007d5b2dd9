#pragma once

#include "lockstep/nn/optim/optimizer.h"

namespace lockstep::optim {

struct LionOptions {
  double learning_rate = 1e-4;
  double beta1 = 0.9;
  double beta2 = 0.99;
  double weight_decay = 0;
  bool maximize = false;

  void check(std::span<const nn::Parameter>) const;
};

// Lion (Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", Algorithm 2):
// p -= lr (sign(beta1 m + (1 - beta1) g) + weight_decay p), then m = beta2 m + (1 - beta2) g.
class Lion final : public GroupedOptimizer<LionOptions> {
 public:
  using GroupedOptimizer::GroupedOptimizer;

 private:
  std::vector<StateKind> state_kinds(int group) const override;
  void prepare(Item& item) override;
};

}  // namespace lockstep::optim
