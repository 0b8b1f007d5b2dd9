#pragma once

#include <memory>
#include <string>
#include <vector>

#include "conformance/arguments.h"
#include "lockstep/nn/optim/optimizer.h"

namespace lockstep::conformance {

// Some parameters, and the attributes that hold for them.
struct OptimizerGroup {
  std::vector<nn::Parameter> parameters;
  Arguments attributes;
};

// The optimizer of PyTorch's name. Throws Error for a name that is unknown.
std::unique_ptr<optim::Optimizer> build_optimizer(const std::string& name,
                                                  const std::vector<OptimizerGroup>& groups);

}  // namespace lockstep::conformance
