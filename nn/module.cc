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
  const Path path(*this, name);
  parameter(path_, value);
}

void Visitor::operator()(std::string_view name, Buffer& value) {
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
    if (value && seen.insert(value.identity()).second) parameters.push_back({path, value});
  }
  void buffer(const std::string& path, Buffer& value) override {
    if (seen.insert(value.identity()).second) buffers.push_back({path, value});
  }
};

struct ForEachModule final : Visitor {
  std::function<void(const std::string&, Module&)> act;

  void parameter(const std::string&, Parameter&) override {}
  void buffer(const std::string&, Buffer&) override {}
  void module(const std::string& path, Module& value) override { act(path, value); }
};

Collect collect(Module& module) {
  Collect visitor;
  visitor("", module);
  return visitor;
}

}  // namespace

std::vector<NamedParameter> Module::named_parameters() { return collect(*this).parameters; }
std::vector<NamedBuffer> Module::named_buffers() { return collect(*this).buffers; }

std::vector<Parameter> Module::parameters() {
  std::vector<Parameter> result;
  for (NamedParameter& named : named_parameters()) result.push_back(named.parameter);
  return result;
}

int64_t Module::parameter_count() {
  int64_t count = 0;
  for (const Parameter& parameter : parameters()) count += parameter.elements();
  return count;
}

void Module::place(const Placement& placement) {
  LOCKSTEP_CHECK(!placed_, "the module has been placed before");
  for (auto& [name, parameter] : named_parameters()) {
    const Array value = Array::empty(parameter.shape(), placement.dtype, placement.device);
    parameter.initialize(value, 0, name, placement.seed);
    parameter.seat(value);
  }
  for (auto& [name, buffer] : named_buffers()) buffer.place(placement.dtype, placement.device);
  mark_placed();
}

void Module::mark_placed() {
  ForEachModule visitor;
  visitor.act = [](const std::string& path, Module& module) {
    module.placed_ = true;
    module.path_ = path;
  };
  visitor("", *this);
}

void Module::train(bool on) {
  ForEachModule visitor;
  visitor.act = [on](const std::string&, Module& module) { module.training_ = on; };
  visitor("", *this);
}

}  // namespace lockstep::nn
