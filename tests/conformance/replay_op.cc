#include "conformance/layout.h"
#include "conformance/replay.h"
#include "lockstep/autograd/ops.h"

namespace lockstep::conformance {
namespace {

// Gradients of the seeded outputs, of the inputs named by `wanted` in its order.
std::vector<Tensor> gradients(const Seeded& seeds, const Tensors& inputs, const Arrays& wanted,
                              GradOptions options) {
  std::vector<Tensor> variables;
  for (const auto& [name, unused] : wanted) variables.push_back(inputs.at(name));
  options.allow_unused = true;
  bool depends = false;
  for (const Tensor& output : seeds.outputs) depends = depends || output.requires_grad();
  if (!depends) return std::vector<Tensor>(variables.size());
  return grad(seeds.outputs, variables, seeds.cotangents, options);
}

void compare_all(const Case& recorded, const std::string& prefix, const std::string& suffix,
                 const Arrays& expected, const std::vector<Tensor>& found, Failures& failures) {
  size_t i = 0;
  for (const auto& [name, values] : expected) {
    compare(recorded, prefix + name + suffix, found[i++].value(), values, failures);
  }
}

// Of the sum over NAME of sum(gradient.NAME * direction.NAME).
void second_derivatives(const Case& recorded, const Tensors& inputs, const Arrays& first,
                        const std::vector<Tensor>& gradients, const std::string& suffix,
                        Failures& failures) {
  const Arrays second = recorded.with_prefix("second.");
  if (second.empty()) return;
  Seeded seeds;
  size_t i = 0;
  for (const auto& [name, unused] : first) {
    const Tensor& gradient = gradients[i++];
    const Array direction = recorded.find("direction." + name);
    if (!direction || !gradient.requires_grad()) continue;
    seeds.outputs.push_back(gradient);
    seeds.cotangents.push_back(Tensor(direction));
  }
  compare_all(recorded, "second.", suffix, second,
              conformance::gradients(seeds, inputs, second, {}), failures);
}

void replay(const Case& recorded, const Op& op, Array (*layout)(const Array&),
            const std::string& suffix, Failures& failures) {
  const Tensors inputs = inputs_of(recorded, layout);
  const Arguments arguments(inputs, recorded.attributes);
  const std::vector<Tensor> outputs = op(arguments);
  arguments.check_all_read();

  const std::vector<Array> expected = recorded.listed("out.");
  if (outputs.size() != expected.size()) {
    failures.push_back(concat(
        {recorded.file, suffix, ": ", outputs.size(), " outputs, expected ", expected.size()}));
    return;
  }
  for (size_t i = 0; i < expected.size(); ++i) {
    compare(recorded, "out." + std::to_string(i) + suffix, outputs[i].value(), expected[i],
            failures);
  }
  for (const auto& [name, values] : recorded.with_prefix("after.")) {
    compare(recorded, "after." + name + suffix, inputs.at(name).value(), values, failures);
  }
  const Arrays first = recorded.with_prefix("grad.");
  const Seeded seeds = seeded(recorded, outputs, layout);
  if (seeds.outputs.empty() || first.empty()) return;
  compare_all(recorded, "grad.", suffix, first,
              gradients(seeds, inputs, first, {.retain_graph = true}), failures);
  const auto again = gradients(seeds, inputs, first, {.create_graph = true});
  compare_all(recorded, "grad.", suffix + " (recorded)", first, again, failures);
  second_derivatives(recorded, inputs, first, again, suffix, failures);
}

// Windows stay what they are; the rest may be updated in place and is copied.
Array as_recorded(const Array& array) { return array.contiguous() ? dense_copy(array) : array; }

}  // namespace

Tensors inputs_of(const Case& recorded, Array (*layout)(const Array&)) {
  Tensors inputs;
  for (const auto& [name, values] : recorded.with_prefix("in.")) {
    const Array copy = layout(values);
    inputs.emplace(name, recorded.find("grad." + name) ? Tensor::variable(copy) : Tensor(copy));
  }
  return inputs;
}

Seeded seeded(const Case& recorded, const std::vector<Tensor>& outputs,
              Array (*layout)(const Array&)) {
  Seeded seeds;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const Array cotangent = recorded.find("cotangent." + std::to_string(i));
    if (!cotangent) continue;
    seeds.outputs.push_back(outputs[i]);
    seeds.cotangents.push_back(Tensor(layout(cotangent)));
  }
  return seeds;
}

void replay_op(const Case& recorded, const OpTable& table, Failures& failures) {
  const auto op = table.find(recorded.name);
  LOCKSTEP_CHECK(op != table.end(), "no op of the name '", recorded.name, "' in the table");
  replay(recorded, op->second, as_recorded, "", failures);
  if (failures.empty()) replay(recorded, op->second, strided_copy, " (strided)", failures);
}

}  // namespace lockstep::conformance
