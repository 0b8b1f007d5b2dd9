#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "conformance/arguments.h"
#include "conformance/table.h"
#include "lockstep/nn/module.h"

namespace lockstep::conformance {

// A module, and how it is called with PyTorch's arguments.
struct BuiltModule {
  std::shared_ptr<nn::Module> module;
  Op call;
  // The ends of the names of weights that PyTorch has the other way round.
  std::vector<std::string> transposed = {};
};

// The module of PyTorch's name, made with the constructor's attributes. Nothing for another name.
// The first are those of one tensor in and one out, Sequential among them.
std::optional<BuiltModule> build_layer(const std::string& name, const Arguments& attributes);
std::optional<BuiltModule> build_attention(const std::string& name, const Arguments& attributes);
std::optional<BuiltModule> build_recurrent(const std::string& name, const Arguments& attributes);

}  // namespace lockstep::conformance
