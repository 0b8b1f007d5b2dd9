#pragma once

#include <initializer_list>
#include <span>
#include <vector>

#include "lockstep/autograd/record.h"

namespace lockstep::internal {

// The same values one node further from their history.
inline Tensor alias(const Tensor& x) {
  return record({"alias"}, x.value(), {&x},
                [](const Tensor& dy, Gradients& out) { out.add(0, dy); });
}

// Gradients of a fused op as recorded formulas: those of the plain formula it stands for, empty of
// inputs that require none. Taken with respect to aliases: an input may be computed from another,
// or be the same.
template <class F>
std::vector<Tensor> recorded_gradients(std::initializer_list<Tensor> inputs, const Tensor& dy,
                                       const F& formula) {
  std::vector<Tensor> operands, wanted;
  for (const Tensor& input : inputs) {
    operands.push_back(input ? alias(input) : Tensor());
    if (input.requires_grad()) wanted.push_back(operands.back());
  }
  const Tensor y = formula(std::span<const Tensor>(operands));
  const std::vector<Tensor> gradients =
      grad({&y, 1}, wanted, {&dy, 1}, {.create_graph = true, .allow_unused = true});
  size_t next = 0;
  for (Tensor& operand : operands) {
    operand = operand.requires_grad() ? gradients[next++] : Tensor();
  }
  return operands;
}

// The same, of a closure's inputs in their order.
template <class F>
void add_recorded(Gradients& out, std::initializer_list<Tensor> inputs, const Tensor& dy,
                  const F& formula) {
  const std::vector<Tensor> gradients = recorded_gradients(inputs, dy, formula);
  for (size_t i = 0; i < gradients.size(); ++i) out.add(static_cast<int>(i), gradients[i]);
}

}  // namespace lockstep::internal
