#pragma once

#include <concepts>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "conformance/arguments.h"

namespace lockstep::conformance {

// PyTorch's name of an op -> the call of ours with PyTorch's arguments. Returns the outputs in
// order; arguments that are updated in place are written to.
using Op = std::function<std::vector<Tensor>(const Arguments&)>;
using OpTable = std::map<std::string, Op, std::less<>>;

// An op of the kind input -> output: f(input), or f(input, arguments).
template <class F>
Op on_input(F f) {
  return [f](const Arguments& a) -> std::vector<Tensor> {
    if constexpr (std::invocable<F, const Tensor&, const Arguments&>) {
      return {f(a.tensor("input"), a)};
    } else {
      return {f(a.tensor("input"))};
    }
  };
}

// The families. A new op is a line in one of these; a new family one here and in op_table().
void add_unary(OpTable& table);
void add_binary(OpTable& table);
void add_reduce(OpTable& table);
void add_shape(OpTable& table);
void add_index(OpTable& table);
void add_linear_algebra(OpTable& table);
void add_convolution(OpTable& table);
void add_normalization(OpTable& table);
void add_loss(OpTable& table);
void add_gradients(OpTable& table);

OpTable op_table();

}  // namespace lockstep::conformance
