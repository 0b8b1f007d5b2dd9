#include "lockstep/nn/optim/clip.h"

#include <cmath>
#include <limits>

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
    visit(parameter.leaf());
  }
}

double two_norm(std::span<const nn::Parameter> parameters) {
  double total = 0;
  for_each_gradient(parameters, [&](Leaf& leaf) {
    const Array values = kernels::contiguous(leaf.gradient());
    total += kernels::of(values).sum_of_squares(values.view());
  });
  return std::sqrt(total);
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
  double total = 0;
  for_each_gradient(parameters, [&](Leaf& leaf) {
    const Array& gradient = leaf.gradient();
    if (gradient.elements() == 0) return;
    const bool wide = gradient.dtype() == DType::f64;
    const Array values = kernels::cast(gradient, wide ? DType::f64 : DType::f32);
    const double own = norm(Tensor(values), norm_type).item();
    if (!largest) {
      total += std::pow(own, norm_type);
    } else if (own > total || std::isnan(own)) {
      total = own;
    }
  });
  return largest ? total : std::pow(total, 1 / norm_type);
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
  for_each_gradient(parameters, [&](Leaf& leaf) {
    const Array& gradient = leaf.writable_gradient();
    kernels::scale_add(factor, gradient, 0, gradient);
  });
  return norm;
}

void clip_grad_value(std::span<const nn::Parameter> parameters, double clip_value) {
  LOCKSTEP_CHECK(clip_value >= 0, "clip_grad_value: ", clip_value, " is negative");
  const NoGrad no_grad;
  for_each_gradient(parameters, [&](Leaf& leaf) {
    const Array& gradient = leaf.writable_gradient();
    kernels::copy_into(clamp(Tensor(gradient), -clip_value, clip_value).value(), gradient);
  });
}

}  // namespace lockstep::optim
