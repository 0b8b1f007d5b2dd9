#include "conformance/layout.h"
#include "conformance/optimizers.h"
#include "conformance/replay.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::conformance {
namespace {

std::vector<nn::Parameter> initial_parameters(const Case& recorded) {
  std::vector<nn::Parameter> parameters;
  for (;;) {
    const std::string name = "param." + std::to_string(parameters.size()) + ".initial";
    const Array values = recorded.find(name);
    if (!values) break;
    parameters.emplace_back(values.shape(), nn::Initializer::zeros());
    parameters.back().seat(dense_copy(values));
    parameters.back().leaf().seat_gradient(
        Array::zeros(values.shape(), values.dtype(), values.device()));
  }
  LOCKSTEP_CHECK(!parameters.empty(), "there are no parameters");
  return parameters;
}

std::vector<OptimizerGroup> groups_of(const Case& recorded,
                                      const std::vector<nn::Parameter>& parameters) {
  Json shared = recorded.attributes;
  shared.erase("steps");
  shared.erase("param_groups");
  if (!recorded.attributes.contains("param_groups")) return {{parameters, Arguments({}, shared)}};
  std::vector<OptimizerGroup> groups;
  for (Json overrides : recorded.attributes["param_groups"]) {
    std::vector<nn::Parameter> members;
    for (const Json& index : overrides.at("params")) {
      members.push_back(parameters.at(index.get<size_t>()));
    }
    overrides.erase("params");
    Json attributes = shared;
    attributes.update(overrides);
    groups.push_back({members, Arguments({}, attributes)});
  }
  return groups;
}

}  // namespace

void replay_optimizer(const Case& recorded, Failures& failures) {
  const std::vector<nn::Parameter> parameters = initial_parameters(recorded);
  const auto optimizer = build_optimizer(recorded.name, groups_of(recorded, parameters));
  const int steps = recorded.attributes.at("steps").get<int>();
  const auto expect = [&](size_t i, const std::string& when) {
    const std::string name = "param." + std::to_string(i) + "." + when;
    const Array expected = recorded.find(name);
    LOCKSTEP_CHECK(expected, "the case has no ", name);
    compare(recorded, name, parameters[i].tensor().value(), expected, failures);
  };
  for (int step = 0; step < steps && failures.empty(); ++step) {
    for (size_t i = 0; i < parameters.size(); ++i) {
      Leaf& leaf = parameters[i].leaf();
      const Array gradient =
          recorded.find("grad." + std::to_string(i) + "." + std::to_string(step));
      leaf.set_has_gradient(static_cast<bool>(gradient));
      if (gradient) kernels::copy_into(gradient, leaf.gradient());
    }
    optimizer->step();
    for (size_t i = 0; i < parameters.size(); ++i) expect(i, "after." + std::to_string(step));
  }
  if (!failures.empty()) return;
  for (size_t i = 0; i < parameters.size(); ++i) expect(i, "after");
}

}  // namespace lockstep::conformance
