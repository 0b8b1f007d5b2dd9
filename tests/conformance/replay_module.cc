#include <algorithm>

#include "conformance/layout.h"
#include "conformance/modules.h"
#include "conformance/replay.h"

namespace lockstep::conformance {
namespace {

class ModuleReplay {
 public:
  ModuleReplay(const Case& recorded, Failures& failures)
      : recorded_(recorded), failures_(failures), built_(build()) {
    Json forward = Json::object();
    if (recorded.attributes.contains("forward")) forward = recorded.attributes["forward"];
    inputs_ = inputs_of(recorded, dense_copy);
    const Arguments arguments(inputs_, forward);
    outputs_ = built_.call(arguments);
    arguments.check_all_read();
  }

  void compare_values() {
    const std::vector<Array> expected = recorded_.listed("out.");
    if (outputs_.size() != expected.size()) {
      fail({outputs_.size(), " outputs, expected ", expected.size()});
    }
    for (size_t i = 0; i < expected.size(); ++i) {
      compare(recorded_, "out." + std::to_string(i), outputs_[i].value(), expected[i], failures_);
    }
    const auto state = built_.module->state();
    for (const auto& [name, values] : recorded_.with_prefix("state_after.")) {
      const auto found = std::find_if(state.begin(), state.end(),
                                      [&](const auto& entry) { return entry.name == name; });
      LOCKSTEP_CHECK(found != state.end(), "there is no buffer '", name, "'");
      compare(recorded_, "state_after." + name, found->array, values, failures_);
    }
  }

  void compare_gradients(GradOptions options, const std::string& suffix) {
    const Seeded seeds = seeded(recorded_, outputs_, dense_copy);
    const Arrays expected = recorded_.with_prefix("grad.");
    if (seeds.outputs.empty() || expected.empty()) return;
    std::vector<Tensor> variables;
    for (const auto& [name, unused] : expected) variables.push_back(variable(name));
    options.allow_unused = true;
    const auto found = grad(seeds.outputs, variables, seeds.cotangents, options);
    size_t i = 0;
    for (const auto& [name, values] : expected) {
      Array gradient = found[i++].value();
      if (gradient && turned(name)) gradient = gradient.transpose(0, 1);
      compare(recorded_, "grad." + name + suffix, gradient, values, failures_);
    }
  }

 private:
  BuiltModule build() const {
    const Json& given = recorded_.attributes;
    Json constructor = given;
    constructor.erase("training");
    constructor.erase("forward");
    const Arguments attributes({}, constructor);
    auto built = build_layer(recorded_.name, attributes);
    if (!built) built = build_attention(recorded_.name, attributes);
    if (!built) built = build_recurrent(recorded_.name, attributes);
    LOCKSTEP_CHECK(built.has_value(), "no module of the name '", recorded_.name, "'");
    attributes.check_all_read();
    load(*built);
    built->module->train(given.at("training").get<bool>());
    return *built;
  }

  void load(const BuiltModule& built) const {
    DType dtype = DType::f64;
    std::map<std::string, Array> state;
    for (const auto& [name, values] : recorded_.with_prefix("state.")) {
      const bool turn = turned(name, built);
      state.emplace(name, turn ? dense_copy(values.transpose(0, 1)) : values);
      if (is_floating(values.dtype())) dtype = values.dtype();
    }
    built.module->place({.dtype = dtype});
    built.module->load_state(state);
  }

  static bool turned(const std::string& name, const BuiltModule& built) {
    return std::any_of(built.transposed.begin(), built.transposed.end(),
                       [&](const std::string& end) { return name.ends_with(end); });
  }
  bool turned(const std::string& name) const { return turned(name, built_); }

  // "state.NAME": a parameter; otherwise an input.
  Tensor variable(const std::string& name) const {
    constexpr std::string_view kState = "state.";
    if (!name.starts_with(kState)) return inputs_.at(name);
    const std::string wanted = name.substr(kState.size());
    for (const nn::NamedParameter& entry : built_.module->named_parameters()) {
      if (entry.name == wanted) return entry.parameter.tensor();
    }
    fail({"there is no parameter '", wanted, "'"});
  }

  const Case& recorded_;
  Failures& failures_;
  BuiltModule built_;
  Tensors inputs_;
  std::vector<Tensor> outputs_;
};

}  // namespace

void replay_module(const Case& recorded, Failures& failures) {
  ModuleReplay replay(recorded, failures);
  replay.compare_values();
  replay.compare_gradients({.retain_graph = true}, "");
  replay.compare_gradients({.create_graph = true}, " (recorded)");
}

}  // namespace lockstep::conformance
