#pragma once

#include "lockstep/nn/optim/optimizer.h"

namespace lockstep::optim {

struct SGDOptions {
  double learning_rate = 1e-3;
  double momentum = 0;
  double dampening = 0;
  double weight_decay = 0;
  bool nesterov = false;
  bool maximize = false;

  void check(std::span<const nn::Parameter>) const;
};

// Stochastic gradient descent with momentum: v = momentum v + (1 - dampening) g (the first time
// v = g), p -= lr v; weight decay is added to g.
class SGD final : public GroupedOptimizer<SGDOptions> {
 public:
  using GroupedOptimizer::GroupedOptimizer;

 private:
  std::vector<StateKind> state_kinds(int group) const override;
  void prepare(Item& item) override;
};

}  // namespace lockstep::optim
