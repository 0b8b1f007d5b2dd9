#pragma once

#include "lockstep/nn/optim/optimizer.h"

namespace lockstep::optim {

struct MuonOptions {
  // How the rate follows from the shape [rows, columns]: times sqrt(max(1, rows / columns)) (Jordan
  // 2024); times 0.2 sqrt(max(rows, columns)), so that the step is as long as AdamW's (Liu et al.
  // 2025); times sqrt(rows / columns) (Bernstein 2025).
  enum class AdjustRate : uint8_t { original, match_rms_adamw, spectral_unclamped };

  double learning_rate = 1e-3;
  double weight_decay = 0.1;
  double momentum = 0.95;
  bool nesterov = true;
  double newton_schulz_coefficients[3] = {3.4445, -4.775, 2.0315};
  double epsilon = 1e-7;
  int newton_schulz_steps = 5;
  AdjustRate adjust_rate = AdjustRate::original;

  void check(std::span<const nn::Parameter> parameters) const;
};

// Muon (Jordan 2024, kellerjordan.github.io/posts/muon), for matrices only: the momentum
// m = momentum m + (1 - momentum) g, orthogonalized by Newton-Schulz steps in bfloat16. Weight
// decay is decoupled, with the rate before it is adjusted. Embeddings, biases and the like want
// another optimizer beside it.
class Muon final : public GroupedOptimizer<MuonOptions> {
 public:
  using GroupedOptimizer::GroupedOptimizer;

 private:
  bool works_on_slices() const override { return false; }
  std::vector<StateKind> state_kinds(int group) const override;
  void prepare(Item& item) override;
  void finish(std::span<const Item> items) override;
};

}  // namespace lockstep::optim
