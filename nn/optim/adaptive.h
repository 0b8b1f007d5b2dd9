#pragma once

#include "lockstep/nn/optim/optimizer.h"

namespace lockstep::optim {

struct AdagradOptions {
  double learning_rate = 1e-2;
  double learning_rate_decay = 0;
  double weight_decay = 0;
  double initial_accumulator_value = 0;
  double epsilon = 1e-10;
  bool maximize = false;

  void check(std::span<const nn::Parameter>) const;
};

// Adagrad (Duchi et al. 2011), with the rate lr / (1 + (t - 1) learning_rate_decay) at step t.
class Adagrad final : public GroupedOptimizer<AdagradOptions> {
 public:
  using GroupedOptimizer::GroupedOptimizer;

 private:
  std::vector<StateKind> state_kinds(int group) const override;
  void prepare(Item& item) override;
};

struct RMSpropOptions {
  double learning_rate = 1e-2;
  double alpha = 0.99;
  double epsilon = 1e-8;
  double weight_decay = 0;
  double momentum = 0;
  bool centered = false;
  bool maximize = false;

  void check(std::span<const nn::Parameter>) const;
};

// RMSprop (Hinton 2012); `centered` divides by the deviation instead of the root mean square
// (Graves 2013).
class RMSprop final : public GroupedOptimizer<RMSpropOptions> {
 public:
  using GroupedOptimizer::GroupedOptimizer;

 private:
  std::vector<StateKind> state_kinds(int group) const override;
  void prepare(Item& item) override;
};

struct AdadeltaOptions {
  double learning_rate = 1;
  double rho = 0.9;
  double epsilon = 1e-6;
  double weight_decay = 0;
  bool maximize = false;

  void check(std::span<const nn::Parameter>) const;
};

// Adadelta (Zeiler 2012).
class Adadelta final : public GroupedOptimizer<AdadeltaOptions> {
 public:
  using GroupedOptimizer::GroupedOptimizer;

 private:
  std::vector<StateKind> state_kinds(int group) const override;
  void prepare(Item& item) override;
};

}  // namespace lockstep::optim
