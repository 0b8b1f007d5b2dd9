#include "conformance/gradients.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "conformance/layout.h"
#include "conformance/replay.h"
#include "lockstep/autograd/gradient_check.h"
#include "lockstep/autograd/ops.h"

namespace lockstep::conformance {
namespace {

// Everything of a case that does not change while its inputs are stepped.
class Checked {
 public:
  Checked(const Case& recorded, const Op& op)
      : recorded_(recorded), op_(op), inputs_(inputs_of(recorded, dense_copy)) {
    for (const auto& [name, tensor] : inputs_) {
      if (tensor.requires_grad()) variables_.push_back(tensor);
    }
  }

  const std::vector<Tensor>& variables() const { return variables_; }

  // The outputs weighted with the recorded cotangents.
  Tensor total() const {
    const Seeded seeds = seeded(recorded_, op_(Arguments(inputs_, recorded_.attributes)), as_is);
    return weighted(seeds.outputs, seeds.cotangents);
  }
  double value() const {
    const NoGrad no_grad;
    return total().item();
  }
  std::vector<Tensor> gradients(bool create_graph) const {
    const Tensor y = total();
    if (!y.requires_grad()) return std::vector<Tensor>(variables_.size());
    return grad({&y, 1}, variables_, {}, {.create_graph = create_graph, .allow_unused = true});
  }
  // Its gradients, weighted so that nothing cancels; empty if there are none.
  Tensor gradient_total() const {
    std::vector<Tensor> weights, gradients = this->gradients(true);
    std::erase_if(gradients, [](const Tensor& gradient) { return !gradient; });
    for (const Tensor& gradient : gradients) weights.push_back(uneven(gradient.shape()));
    return weighted(gradients, weights);
  }

 private:
  static Array as_is(const Array& array) { return array; }

  static Tensor weighted(const std::vector<Tensor>& tensors, const std::vector<Tensor>& weights) {
    Tensor total;
    for (size_t i = 0; i < tensors.size(); ++i) {
      const Tensor part = sum(tensors[i] * weights[i]);
      total = total ? total + part : part;
    }
    return total;
  }

  static Tensor uneven(const Shape& shape) {
    std::vector<double> values(shape.elements());
    for (size_t i = 0; i < values.size(); ++i) values[i] = std::cos(1.0 + 1.7 * i);
    return Tensor(Array::from(values, shape, context().device));
  }

  const Case& recorded_;
  const Op& op_;
  Tensors inputs_;
  std::vector<Tensor> variables_;
};

// Whether the differences could be off by `error` at an element: one-sided ones disagree by a good
// part of it (a corner), or wider ones do (a jump, or a bend within the step).
bool unresolved(const SteppedElement& element, const std::function<double()>& value, double error) {
  constexpr double kStep = 1e-5;
  const double before = element.value();
  const auto at = [&](double step) {
    element = before + step;
    return value();
  };
  const double far_below = at(-2 * kStep), below = at(-kStep), middle = at(0);
  const double above = at(kStep), far_above = at(2 * kStep);
  element = before;
  const double corner = std::abs((above - middle) - (middle - below)) / kStep;
  const double bend = std::abs((above - below) / 2 - (far_above - far_below) / 4) / kStep;
  return !(corner < error / 4 && bend < error / 4);
}

void note(const Case& recorded, const char* what, const Checked& checked,
          const GradientReport& report, const std::function<double()>& value, Failures& failures) {
  if (!report.problem.empty()) {
    failures.push_back(recorded.file + ": " + what + ": " + report.problem);
    return;
  }
  for (const GradientMismatch& at : report.mismatches) {
    const SteppedElement element(checked.variables()[at.input].value(), at.element);
    if (unresolved(element, value, std::abs(at.analytic - at.numeric))) continue;
    failures.push_back(
        concat({recorded.file, ": ", what, " of input ", at.input, ", element ", at.element,
                ": got ", at.analytic, ", finite differences give ", at.numeric}));
    return;
  }
}

bool all_finite(const Array& array) {
  if (!is_floating(array.dtype())) return true;
  const std::vector<double> values = array.to_vector<double>();
  return std::all_of(values.begin(), values.end(), [](double x) { return std::isfinite(x); });
}

}  // namespace

bool has_checkable_gradients(const Case& recorded) {
  if (recorded.kind != "op") return false;
  // What embedding keeps from its padding row is no derivative.
  if (!recorded.attributes.value("padding_idx", Json()).is_null()) return false;
  const Arrays gradients = recorded.with_prefix("grad.");
  for (const auto& [name, tensor] : recorded.tensors) {
    if (is_floating(tensor.dtype()) && tensor.dtype() != DType::f64) return false;
    if (!all_finite(tensor)) return false;
  }
  return !gradients.empty() && !recorded.with_prefix("cotangent.").empty();
}

void check_gradients(const Case& recorded, const OpTable& table, Failures& failures) {
  constexpr double kFirst = 1e-6, kSecond = 1e-5;
  const auto op = table.find(recorded.name);
  LOCKSTEP_CHECK(op != table.end(), "no op of the name '", recorded.name, "' in the table");
  const Checked checked(recorded, op->second);
  const auto value = [&] { return checked.value(); };
  note(recorded, "the gradient", checked,
       compare_with_differences(checked.variables(), checked.gradients(false), value,
                                {.tolerance = kFirst}),
       value, failures);
  const Tensor total = checked.gradient_total();
  if (!total) return;
  std::vector<Tensor> second(checked.variables().size());
  if (total.requires_grad()) {
    second = grad({&total, 1}, checked.variables(), {}, {.allow_unused = true});
  }
  const auto gradient_value = [&] { return checked.gradient_total().item(); };
  note(
      recorded, "the second gradient", checked,
      compare_with_differences(checked.variables(), second, gradient_value, {.tolerance = kSecond}),
      gradient_value, failures);
}

}  // namespace lockstep::conformance
