#include "lockstep/nn/module.h"

#include <unordered_set>

#include "lockstep/runtime/error.h"

namespace lockstep::nn {

Visitor::Path::Path(Visitor& visitor, std::string_view name)
    : visitor_(visitor), length_(visitor.path_.size()) {
  if (!visitor.path_.empty() && !name.empty()) visitor.path_ += '.';
  visitor.path_ += name;
}

void Visitor::operator()(std::string_view name, Parameter& value) {
  if (!value) return;
  const Path path(*this, name);
  parameter(path_, value);
}

void Visitor::operator()(std::string_view name, Buffer& value) {
  if (!value) return;
  const Path path(*this, name);
  buffer(path_, value);
}

void Visitor::operator()(std::string_view name, Module& value) {
  const Path path(*this, name);
  module(path_, value);
  value.visit(*this);
}

void Visitor::module(const std::string&, Module&) {}

namespace {

struct Collect final : Visitor {
  std::vector<NamedParameter> parameters;
  std::vector<NamedBuffer> buffers;
  std::unordered_set<const void*> seen;

  void parameter(const std::string& path, Parameter& value) override {
    if (seen.insert(value.identity()).second) parameters.push_back({path, value});
  }
  void buffer(const std::string& path, Buffer& value) override {
    if (seen.insert(value.identity()).second) buffers.push_back({path, value});
  }
};

struct CollectModules final : Visitor {
  std::vector<NamedModule> modules;

  void parameter(const std::string&, Parameter&) override {}
  void buffer(const std::string&, Buffer&) override {}
  void module(const std::string& path, Module& value) override {
    modules.push_back({path, &value});
  }
};

// Tied ones under each of their names.
struct SetRequiresGrad final : Visitor {
  const bool on;
  const std::string_view prefix;
  bool found;

  SetRequiresGrad(bool on, std::string_view prefix)
      : on(on), prefix(prefix), found(prefix.empty()) {}
  void parameter(const std::string& path, Parameter& value) override {
    const bool below = path.starts_with(prefix) && path.size() > prefix.size() &&
                       (prefix.empty() || path[prefix.size()] == '.');
    if (path != prefix && !below) return;
    value.set_frozen(!on);
    found = true;
  }
  void buffer(const std::string&, Buffer&) override {}
};

Collect collect(Module& module) {
  Collect visitor;
  visitor("", module);
  return visitor;
}

}  // namespace

std::vector<NamedParameter> Module::named_parameters() { return collect(*this).parameters; }
std::vector<NamedBuffer> Module::named_buffers() { return collect(*this).buffers; }

std::vector<NamedModule> Module::named_modules() {
  CollectModules visitor;
  visitor("", *this);
  return visitor.modules;
}

std::vector<Parameter> Module::parameters() {
  return parameters([](std::string_view, const Parameter&) { return true; });
}

std::vector<Parameter> Module::parameters(
    const std::function<bool(std::string_view, const Parameter&)>& wanted) {
  std::vector<Parameter> result;
  for (const auto& [name, parameter] : named_parameters()) {
    if (wanted(name, parameter)) result.push_back(parameter);
  }
  return result;
}

int64_t Module::parameter_count() {
  int64_t count = 0;
  for (const Parameter& parameter : parameters()) count += parameter.elements();
  return count;
}

void Module::apply(const std::function<void(Module&)>& act) {
  const std::vector<NamedModule> modules = named_modules();
  for (auto it = modules.rbegin(); it != modules.rend(); ++it) act(*it->module);
}

void Module::place(const Placement& placement) {
  LOCKSTEP_CHECK(!placed_, "the module has been placed before");
  const Purpose purpose("parameters");
  for (auto& [name, parameter] : named_parameters()) {
    const Array value = Array::empty(parameter.shape(), placement.dtype, placement.device);
    parameter.initialize(value, 0, name, placement.seed);
    parameter.seat(value);
  }
  for (auto& [name, buffer] : named_buffers()) buffer.place(placement.dtype, placement.device);
  mark_placed();
}

void Module::mark_placed() {
  for (const auto& [path, module] : named_modules()) {
    module->placed_ = true;
    module->path_ = path;
  }
}

void Module::to(DType dtype) {
  LOCKSTEP_CHECK(is_floating(dtype), "a module cannot be converted to ", dtype);
  if (!placed_) return place({.dtype = dtype});
  for (auto& [name, parameter] : named_parameters()) parameter.convert(dtype);
  for (auto& [name, buffer] : named_buffers()) buffer.place(dtype, buffer.array().device());
}

void Module::train(bool on) {
  for (const auto& [path, module] : named_modules()) module->training_ = on;
}

void Module::requires_grad(bool on, std::string_view prefix) {
  SetRequiresGrad visitor(on, prefix);
  visitor("", *this);
  LOCKSTEP_CHECK(visitor.found, "requires_grad: the module has no parameter '", prefix,
                 "' or below it");
}

}  // namespace lockstep::nn
