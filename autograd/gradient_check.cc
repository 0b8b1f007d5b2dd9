#include "lockstep/autograd/gradient_check.h"

#include <algorithm>
#include <cmath>

#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/ops/reduce.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep {
namespace {

Tensor weights_of(const Tensor& y, uint64_t seed) {
  const Array values = Array::empty(y.shape(), DType::f64, y.device());
  kernels::of(values).uniform(values.view(), -1, 1, {.seed = seed}, 0);
  return to(Tensor(values), y.dtype());
}

// f's inputs in memory of their own, and those of them that are differentiated.
struct Operands {
  std::vector<Tensor> all, variables;

  explicit Operands(const std::vector<Tensor>& inputs) {
    for (const Tensor& input : inputs) {
      if (input && input.dtype() == DType::f64) {
        variables.push_back(Tensor::variable(kernels::copy(input.value())));
        all.push_back(variables.back());
      } else {
        all.push_back(input.detach());
      }
    }
  }
};

// `report` with positions among the f64 inputs turned into positions among all.
GradientReport renumbered(GradientReport report, const std::vector<Tensor>& inputs) {
  std::vector<int> position;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i] && inputs[i].dtype() == DType::f64) position.push_back(static_cast<int>(i));
  }
  for (GradientMismatch& mismatch : report.mismatches) mismatch.input = position[mismatch.input];
  return report;
}

GradientReport impossible(std::string problem) {
  GradientReport report;
  report.problem = std::move(problem);
  return report;
}

}  // namespace

std::string GradientReport::to_string() const {
  constexpr size_t kShown = 8;
  if (!problem.empty()) return problem;
  if (mismatches.empty()) return concat({"all ", checked, " gradients agree"});
  std::string text =
      concat({mismatches.size(), " of ", checked, " gradients differ from finite differences"});
  for (size_t i = 0; i < std::min(kShown, mismatches.size()); ++i) {
    const GradientMismatch& at = mismatches[i];
    text += concat({"\n  input ", at.input, ", element ", at.element, ": analytic ", at.analytic,
                    ", numeric ", at.numeric});
  }
  if (mismatches.size() > kShown) text += "\n  …";
  return text;
}

SteppedElement::SteppedElement(const Array& array, int64_t element)
    : place_(array.try_view({array.elements()}).narrow(0, element, 1)) {}

void SteppedElement::operator=(double value) const {
  kernels::of(place_).fill(place_.view(), value);
}

GradientReport compare_with_differences(const std::vector<Tensor>& tensors,
                                        const std::vector<Tensor>& gradients,
                                        const std::function<double()>& value,
                                        const GradientCheckOptions& options) {
  GradientReport report;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Array& x = tensors[i].value();
    LOCKSTEP_CHECK(x.dtype() == DType::f64 && x.contiguous(), "compare_with_differences: input ", i,
                   " is ", x.dtype(), ", expected contiguous f64");
    if (gradients[i] && gradients[i].shape() != x.shape()) {
      return impossible(concat({"the gradient of input ", i, " has shape ", gradients[i].shape(),
                                ", expected ", x.shape()}));
    }
    const std::vector<double> analytic =
        gradients[i] ? gradients[i].to_vector<double>() : std::vector<double>(x.elements(), 0.0);
    for (int64_t j = 0; j < x.elements(); ++j) {
      const SteppedElement element(x, j);
      const double before = element.value();
      element = before + options.step;
      const double above = value();
      element = before - options.step;
      const double below = value();
      element = before;
      const double numeric = (above - below) / (2 * options.step);
      ++report.checked;
      const double bound = options.tolerance * std::max(1.0, std::abs(numeric));
      if (!(std::abs(analytic[j] - numeric) <= bound)) {
        report.mismatches.push_back({static_cast<int>(i), j, analytic[j], numeric});
      }
    }
  }
  return report;
}

GradientReport gradient_check(const DifferentiableFunction& f, const std::vector<Tensor>& inputs,
                              const GradientCheckOptions& options) {
  const Operands operands(inputs);
  const Tensor y = f(operands.all);
  if (!y.requires_grad()) return impossible("the output does not depend on any f64 input");
  const Tensor weights = weights_of(y, options.seed);
  const auto gradients = grad({&y, 1}, operands.variables, {&weights, 1}, {.allow_unused = true});
  const auto value = [&] {
    const NoGrad no_grad;
    return sum(f(operands.all) * weights).item();
  };
  return renumbered(compare_with_differences(operands.variables, gradients, value, options),
                    inputs);
}

GradientReport second_gradient_check(const DifferentiableFunction& f,
                                     const std::vector<Tensor>& inputs,
                                     const GradientCheckOptions& options) {
  const Operands operands(inputs);
  const auto weighted_gradients = [&] {
    const Tensor y = f(operands.all);
    if (!y.requires_grad()) return Tensor();
    const Tensor weights = weights_of(y, options.seed);
    const auto gradients = grad({&y, 1}, operands.variables, {&weights, 1},
                                {.create_graph = true, .allow_unused = true});
    Tensor total;
    for (size_t i = 0; i < gradients.size(); ++i) {
      if (!gradients[i]) continue;
      const Tensor part = sum(gradients[i] * weights_of(gradients[i], options.seed + 1 + i));
      total = total ? total + part : part;
    }
    return total;
  };
  const Tensor total = weighted_gradients();
  if (!total) return impossible("the output does not depend on any f64 input");
  if (!total.requires_grad()) return impossible("the gradient was not recorded");
  const auto second = grad({&total, 1}, operands.variables, {}, {.allow_unused = true});
  return renumbered(
      compare_with_differences(
          operands.variables, second, [&] { return weighted_gradients().item(); }, options),
      inputs);
}

}  // namespace lockstep
