#pragma once

#include <memory>
#include <vector>

#include "lockstep/autograd/tensor.h"

// What hangs on a node for the engine to call. Users see Tensor::register_hook and retain_grad.
namespace lockstep {

struct TensorHook {
  GradientHook call;
  bool removed = false;
};

// Of one output of a node.
struct TensorHookList {
  std::vector<std::shared_ptr<TensorHook>> hooks;
  bool retains = false;  // retain_grad() was called
  Tensor retained;
};

struct TensorHooks {
  std::vector<TensorHookList> outputs;
  std::string origin;  // of a node made under DetectAnomaly

  // `gradient` as the hooks of that output leave it.
  Tensor apply(int output, Tensor gradient);
  // Adds to what retain_grad() keeps.
  void retain(int output, const Tensor& gradient);
};

}  // namespace lockstep
