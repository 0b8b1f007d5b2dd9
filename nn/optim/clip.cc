#include "lockstep/nn/optim/clip.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "lockstep/autograd/ops.h"
#include "lockstep/runtime/error.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::optim {
namespace {

template <class F>
void for_each_gradient(std::span<const nn::Parameter> parameters, F&& visit) {
  for (const nn::Parameter& parameter : parameters) {
    if (!parameter.placed() || parameter.frozen() || !parameter.leaf().has_gradient()) continue;
    LOCKSTEP_CHECK(!parameter.reduction_pending(),
                   "gradient clipping: the gradient of a parameter of shape ", parameter.shape(),
                   " is not reduced over the ranks; call finish() of the data parallelism first");
    visit(parameter);
  }
}

// What may be changed in place, of this rank's part.
const Array& writable_gradient(const nn::Parameter& parameter) {
  return parameter.shard() ? parameter.own_gradient() : parameter.leaf().writable_gradient();
}

// Numbers of all parameters that become one. Each rank has them of its own slices.
class Total {
 public:
  explicit Total(bool largest) : largest_(largest) {}
  void add(const nn::Parameter& parameter, double value) {
    nn::ShardOwner* owner = parameter.shard() ? parameter.shard()->owner : nullptr;
    auto part = std::find_if(parts_.begin(), parts_.end(),
                             [&](const auto& known) { return known.first == owner; });
    if (part == parts_.end()) part = parts_.insert(part, {owner, 0});
    join(part->second, value);
  }
  // A collective call where there are slices.
  double over_ranks() {
    double total = 0;
    for (auto& [owner, part] : parts_) {
      const std::span one(&part, 1);
      if (owner != nullptr) largest_ ? owner->maximum(one) : owner->sum(one);
      join(total, part);
    }
    return total;
  }

 private:
  void join(double& into, double value) const {
    if (!largest_) {
      into += value;
    } else if (value > into || std::isnan(value)) {
      into = value;
    }
  }

  bool largest_;
  std::vector<std::pair<nn::ShardOwner*, double>> parts_;
};

double two_norm(std::span<const nn::Parameter> parameters) {
  std::vector<nn::Parameter> counted;
  std::vector<Array> gradients;
  for_each_gradient(parameters, [&](const nn::Parameter& parameter) {
    counted.push_back(parameter);
    gradients.push_back(kernels::contiguous(parameter.own_gradient()));
  });
  const std::vector<double> squares = kernels::sums_of_squares(gradients);
  Total total(false);
  for (size_t i = 0; i < counted.size(); ++i) total.add(counted[i], squares[i]);
  return std::sqrt(total.over_ranks());
}

// At most 1; NaN where the norm is.
double factor_to(double norm, double max_norm) {
  const double factor = max_norm / (norm + 1e-6);
  return factor > 1 ? 1 : factor;
}

}  // namespace

double gradient_norm(std::span<const nn::Parameter> parameters, double norm_type) {
  LOCKSTEP_CHECK(norm_type > 0, "gradient_norm: norm_type ", norm_type, ", expected above 0");
  if (norm_type == 2) return two_norm(parameters);
  const NoGrad no_grad;
  const bool largest = std::isinf(norm_type);
  Total total(largest);
  for_each_gradient(parameters, [&](const nn::Parameter& parameter) {
    const Array& gradient = parameter.own_gradient();
    if (gradient.elements() == 0) return total.add(parameter, 0);
    const bool wide = gradient.dtype() == DType::f64;
    const Array values = kernels::cast(gradient, wide ? DType::f64 : DType::f32);
    const double own = norm(Tensor(values), norm_type).item();
    total.add(parameter, largest ? own : std::pow(own, norm_type));
  });
  return largest ? total.over_ranks() : std::pow(total.over_ranks(), 1 / norm_type);
}

double clip_factor(double norm, double max_norm) {
  return max_norm == 0 ? 1 : factor_to(norm, max_norm);
}

double clip_grad_norm(std::span<const nn::Parameter> parameters, double max_norm,
                      ClipOptions options) {
  LOCKSTEP_CHECK(max_norm >= 0, "clip_grad_norm: max_norm ", max_norm, " is negative");
  const double norm = gradient_norm(parameters, options.norm_type);
  LOCKSTEP_CHECK(!options.error_if_nonfinite || std::isfinite(norm),
                 "clip_grad_norm: the norm of the gradients is ", norm);
  const double factor = factor_to(norm, max_norm);
  for_each_gradient(parameters, [&](const nn::Parameter& parameter) {
    const Array& gradient = writable_gradient(parameter);
    kernels::scale_add(factor, gradient, 0, gradient);
  });
  return norm;
}

void clip_grad_value(std::span<const nn::Parameter> parameters, double clip_value) {
  LOCKSTEP_CHECK(clip_value >= 0, "clip_grad_value: ", clip_value, " is negative");
  const NoGrad no_grad;
  for_each_gradient(parameters, [&](const nn::Parameter& parameter) {
    const Array& gradient = writable_gradient(parameter);
    kernels::copy_into(clamp(Tensor(gradient), -clip_value, clip_value).value(), gradient);
  });
}

}  // namespace lockstep::optim
