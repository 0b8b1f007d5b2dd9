#include "conformance/layout.h"
#include "conformance/table.h"
#include "lockstep/nn/optim/clip.h"

namespace lockstep::conformance {
namespace {

// Parameters that have `gradients`, in memory of their own.
std::vector<nn::Parameter> parameters_with(const std::vector<Tensor>& gradients) {
  std::vector<nn::Parameter> parameters;
  for (const Tensor& gradient : gradients) {
    LOCKSTEP_CHECK(gradient && is_floating(gradient.dtype()), "a gradient is not floating");
    parameters.emplace_back(gradient.shape(), nn::Initializer::zeros());
    parameters.back().seat(Array::zeros(gradient.shape(), gradient.dtype(), gradient.device()));
    parameters.back().leaf().seat_gradient(dense_copy(gradient.value()));
    parameters.back().leaf().set_has_gradient(true);
  }
  return parameters;
}

std::vector<Tensor> call_clip_grad_norm(const Arguments& a) {
  const std::vector<Tensor> gradients = a.tensors("grads");
  const auto parameters = parameters_with(gradients);
  const double norm = optim::clip_grad_norm(
      parameters, a.number("max_norm"),
      {.norm_type = a.number("norm_type"), .error_if_nonfinite = a.boolean("error_if_nonfinite")});
  const DType dtype = gradients.empty() ? DType::f32 : gradients[0].dtype();
  std::vector<Tensor> outputs = {Tensor(Array::full({}, norm, dtype))};
  for (const nn::Parameter& parameter : parameters) outputs.push_back(parameter.grad());
  return outputs;
}

std::vector<Tensor> call_clip_grad_value(const Arguments& a) {
  const auto parameters = parameters_with(a.tensors("grads"));
  optim::clip_grad_value(parameters, a.number("clip_value"));
  std::vector<Tensor> outputs;
  for (const nn::Parameter& parameter : parameters) outputs.push_back(parameter.grad());
  return outputs;
}

}  // namespace

void add_gradients(OpTable& table) {
  table["clip_grad_norm"] = call_clip_grad_norm;
  table["clip_grad_value"] = call_clip_grad_value;
}

}  // namespace lockstep::conformance
