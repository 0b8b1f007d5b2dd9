#include "lockstep/nn/layers/normalization.h"

#include "lockstep/nn/layers/describe.h"

namespace lockstep::nn {
namespace {

using internal::text;
using internal::tuple;

}  // namespace

LayerNorm::LayerNorm(const Shape& normalized_shape, const Options& options)
    : normalized_shape(normalized_shape), eps(options.eps) {
  if (!options.elementwise_affine) return;
  weight = Parameter(normalized_shape, Initializer::ones());
  if (options.bias) bias = Parameter(normalized_shape, Initializer::zeros());
}

Tensor LayerNorm::forward(const Tensor& x) {
  return layer_norm(x, normalized_shape, weight.tensor_or_empty(), bias.tensor_or_empty(), eps);
}

AddLayerNorm LayerNorm::add(const Tensor& x, const Tensor& delta) { return add(x, delta, true); }

Tensor LayerNorm::of_sum(const Tensor& x, const Tensor& delta) {
  return add(x, delta, false).normalized;
}

AddLayerNorm LayerNorm::add(const Tensor& x, const Tensor& delta, bool for_products) {
  if (!placed()) place({});
  const ScopeFrame scope(path());
  return add_layer_norm(x, delta, normalized_shape, weight.tensor_or_empty(),
                        bias.tensor_or_empty(), {.epsilon = eps, .for_products = for_products});
}

void LayerNorm::visit(Visitor& v) {
  v("weight", weight);
  v("bias", bias);
}

std::string LayerNorm::describe() const {
  return concat({tuple(normalized_shape), ", eps=", eps, ", elementwise_affine=",
                 text(static_cast<bool>(weight)), ", bias=", text(static_cast<bool>(bias))});
}

RMSNorm::RMSNorm(const Shape& normalized_shape, const Options& options)
    : normalized_shape(normalized_shape), eps(options.eps) {
  if (options.elementwise_affine) weight = Parameter(normalized_shape, Initializer::ones());
}

Tensor RMSNorm::forward(const Tensor& x) {
  return rms_norm(x, normalized_shape, weight.tensor_or_empty(), eps);
}

void RMSNorm::visit(Visitor& v) { v("weight", weight); }

std::string RMSNorm::describe() const {
  return concat({tuple(normalized_shape), ", eps=", text(eps),
                 ", elementwise_affine=", text(static_cast<bool>(weight))});
}

GroupNorm::GroupNorm(int64_t num_groups, int64_t num_channels, const Options& options)
    : num_groups(num_groups), num_channels(num_channels), eps(options.eps) {
  LOCKSTEP_CHECK(num_groups > 0 && num_channels > 0 && num_channels % num_groups == 0,
                 "GroupNorm: ", num_channels, " channels in ", num_groups,
                 " groups, expected a multiple of the groups");
  if (!options.affine) return;
  weight = Parameter({num_channels}, Initializer::ones());
  bias = Parameter({num_channels}, Initializer::zeros());
}

Tensor GroupNorm::forward(const Tensor& x) {
  return group_norm(x, num_groups, weight.tensor_or_empty(), bias.tensor_or_empty(), eps);
}

void GroupNorm::visit(Visitor& v) {
  v("weight", weight);
  v("bias", bias);
}

std::string GroupNorm::describe() const {
  return concat({num_groups, ", ", num_channels, ", eps=", eps,
                 ", affine=", text(static_cast<bool>(weight))});
}

template <int kSpatial>
InstanceNorm<kSpatial>::InstanceNorm(int64_t num_features, Options options)
    : num_features(num_features), options(options) {
  LOCKSTEP_CHECK(num_features > 0, type_name(), ": ", num_features, " features");
  if (!options.affine) return;
  weight = Parameter({num_features}, Initializer::ones());
  bias = Parameter({num_features}, Initializer::zeros());
}

template <int kSpatial>
Tensor InstanceNorm<kSpatial>::forward(const Tensor& x) {
  LOCKSTEP_CHECK(x.rank() == kSpatial + 2 && x.dim(1) == num_features, type_name(),
                 ": input of shape ", x.shape(), ", expected rank ", kSpatial + 2, " with ",
                 num_features, " features");
  return instance_norm(x, weight.tensor_or_empty(), bias.tensor_or_empty(), options.eps);
}

template <int kSpatial>
void InstanceNorm<kSpatial>::visit(Visitor& v) {
  v("weight", weight);
  v("bias", bias);
}

template <int kSpatial>
std::string InstanceNorm<kSpatial>::type_name() const {
  return concat({"InstanceNorm", kSpatial, "d"});
}

template <int kSpatial>
std::string InstanceNorm<kSpatial>::describe() const {
  return concat({num_features, ", eps=", options.eps, ", affine=", text(options.affine)});
}

template struct InstanceNorm<1>;
template struct InstanceNorm<2>;

}  // namespace lockstep::nn
