#include "lockstep/nn/optim/muon.h"

#include <algorithm>
#include <cmath>

#include "lockstep/runtime/error.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "lockstep/runtime/ops/matmul.h"

namespace lockstep::optim {
namespace {

// Roughly u v^T of the singular value decomposition u s v^T of `direction`, in bfloat16: each step
// applies the odd polynomial a s + b s^3 + c s^5 to the singular values.
Array orthogonalized(const Array& direction, const MuonOptions& o) {
  const bool tall = direction.dim(0) > direction.dim(1);
  Array x = kernels::cast(direction, DType::bf16);
  x = kernels::copy(tall ? x.transpose(0, 1) : x);
  // The norm is held in bfloat16 too, as PyTorch's.
  const double length = std::sqrt(kernels::of(x).sum_of_squares(x.view()));
  const double norm = Array::full({}, length, DType::bf16).item();
  kernels::scale_add(1 / std::max(norm, o.epsilon), x, 0, x);
  const auto [a, b, c] = o.newton_schulz_coefficients;
  for (int step = 0; step < o.newton_schulz_steps; ++step) {
    const Array gram = kernels::matmul(x, x.transpose(0, 1));
    kernels::scale_add(c, kernels::matmul(gram, gram), b, gram);
    const Array next = kernels::copy(x);
    x = kernels::matmul(gram, x, Into{next, a});
  }
  return tall ? x.transpose(0, 1) : x;
}

double adjustment(MuonOptions::AdjustRate rule, const Shape& shape) {
  const double rows = static_cast<double>(shape[0]), columns = static_cast<double>(shape[1]);
  switch (rule) {
    case MuonOptions::AdjustRate::original: return std::sqrt(std::max(1.0, rows / columns));
    case MuonOptions::AdjustRate::match_rms_adamw: return 0.2 * std::sqrt(std::max(rows, columns));
    case MuonOptions::AdjustRate::spectral_unclamped: return std::sqrt(rows / columns);
  }
  return 1;
}

}  // namespace

void MuonOptions::check(std::span<const nn::Parameter> parameters) const {
  LOCKSTEP_CHECK(learning_rate >= 0 && weight_decay >= 0 && momentum >= 0, "Muon: learning rate ",
                 learning_rate, ", weight decay ", weight_decay, ", momentum ", momentum,
                 ": none may be negative");
  LOCKSTEP_CHECK(newton_schulz_steps >= 0 && newton_schulz_steps < 100,
                 "Muon: ", newton_schulz_steps, " Newton-Schulz steps, expected 0 to 99");
  for (const nn::Parameter& parameter : parameters) {
    LOCKSTEP_CHECK(parameter.shape().rank() == 2, "Muon: a parameter of shape ", parameter.shape(),
                   ", expected matrices only");
  }
}

std::vector<Optimizer::StateKind> Muon::state_kinds(int) const {
  return {{"momentum_buffer"}, {.name = "direction", .saved = false}};
}

void Muon::prepare(Item& item) {
  const MuonOptions& o = options(item.group);
  item.use(math::MuonMomentum{.gradient_scale = item.gradient_scale,
                              .momentum = o.momentum,
                              .nesterov = o.nesterov ? o.momentum : 1});
  item.run.copy = nullptr;  // finish() makes the step
}

void Muon::finish(std::span<const Item> items) {
  for (const Item& item : items) {
    const MuonOptions& o = options(item.group);
    const Array& value = value_of(item);
    if (value.elements() == 0) continue;
    const Array step = kernels::cast(orthogonalized(state_of(item, 1), o), value.dtype());
    kernels::scale_add(-o.learning_rate * adjustment(o.adjust_rate, value.shape()), step,
                       1 - o.learning_rate * o.weight_decay, value);
  }
}

}  // namespace lockstep::optim
