#pragma once

#include "lockstep/nn/optim/optimizer.h"

namespace lockstep::optim {

struct AdamOptions {
  double learning_rate = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;
  bool amsgrad = false;
  bool maximize = false;
  bool decoupled_weight_decay = false;

  void check(std::span<const nn::Parameter>) const;
};

// Adam (Kingma & Ba 2015): decay is added to the gradient, unless decoupled. `amsgrad` divides by
// the largest second moment so far (Reddi et al. 2018).
class Adam final : public GroupedOptimizer<AdamOptions> {
 public:
  using GroupedOptimizer::GroupedOptimizer;

 private:
  std::vector<StateKind> state_kinds(int group) const override;
  void prepare(Item& item) override;
};

struct AdamWOptions {
  double learning_rate = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.01;
  bool amsgrad = false;
  bool maximize = false;

  void check(std::span<const nn::Parameter>) const;
};

// Adam with decoupled weight decay (Loshchilov & Hutter 2019): parameters shrink by the learning
// rate times the decay first.
class AdamW final : public GroupedOptimizer<AdamWOptions> {
 public:
  using GroupedOptimizer::GroupedOptimizer;

 private:
  std::vector<StateKind> state_kinds(int group) const override;
  void prepare(Item& item) override;
};

struct NAdamOptions {
  double learning_rate = 2e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;
  double momentum_decay = 4e-3;
  bool decoupled_weight_decay = false;
  bool maximize = false;

  void check(std::span<const nn::Parameter>) const;
};

// Adam with Nesterov's momentum (Dozat 2016), its momentum at step t being
// mu_t = beta1 (1 - 0.96^(t * momentum_decay) / 2).
class NAdam final : public GroupedOptimizer<NAdamOptions> {
 public:
  using GroupedOptimizer::GroupedOptimizer;

 private:
  std::vector<StateKind> state_kinds(int group) const override;
  std::vector<ScalarKind> scalar_kinds() const override { return {{"mu_product", 1}}; }
  void prepare(Item& item) override;
};

struct RAdamOptions {
  double learning_rate = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;
  bool decoupled_weight_decay = false;
  bool maximize = false;

  void check(std::span<const nn::Parameter>) const;
};

// Rectified Adam (Liu et al. 2020): momentum alone until the variance is tractable.
class RAdam final : public GroupedOptimizer<RAdamOptions> {
 public:
  using GroupedOptimizer::GroupedOptimizer;

 private:
  std::vector<StateKind> state_kinds(int group) const override;
  void prepare(Item& item) override;
};

}  // namespace lockstep::optim
