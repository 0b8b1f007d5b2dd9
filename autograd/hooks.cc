#include "lockstep/autograd/hooks.h"

#include "lockstep/autograd/ops/elementwise.h"

namespace lockstep {

void HookHandle::remove() {
  if (const std::shared_ptr<TensorHook> hook = hook_.lock()) hook->removed = true;
  hook_.reset();
}

Tensor TensorHooks::apply(int output, Tensor gradient) {
  if (static_cast<size_t>(output) >= outputs.size()) return gradient;
  auto& hooks = outputs[output].hooks;
  std::erase_if(hooks, [](const auto& hook) { return hook->removed; });
  const auto present = hooks;  // a hook may add or remove hooks
  for (const std::shared_ptr<TensorHook>& hook : present) {
    if (hook->removed) continue;
    Tensor replacement = hook->call(gradient);
    if (!replacement) continue;
    LOCKSTEP_CHECK(
        replacement.shape() == gradient.shape() && replacement.dtype() == gradient.dtype(),
        "a hook returned a gradient of shape ", replacement.shape(), " ", replacement.dtype(),
        ", expected ", gradient.shape(), " ", gradient.dtype(), " or nothing");
    gradient = std::move(replacement);
  }
  return gradient;
}

void TensorHooks::retain(int output, const Tensor& gradient) {
  if (static_cast<size_t>(output) >= outputs.size()) return;
  TensorHookList& of = outputs[output];
  if (!of.retains) return;
  of.retained = of.retained ? of.retained + gradient.detach() : gradient.detach();
}

HookHandle Tensor::add_hook(GradientHook hook) const {
  LOCKSTEP_CHECK(node_, "register_hook() of a constant: no gradient ever arrives there");
  HookHandle handle;
  auto entry = std::make_shared<TensorHook>(TensorHook{std::move(hook)});
  handle.hook_ = entry;
  node_->hooks(output_).hooks.push_back(std::move(entry));
  return handle;
}

void Tensor::retain_grad() const {
  LOCKSTEP_CHECK(node_, "retain_grad() of a constant: no gradient ever arrives there");
  if (!node_->is_leaf()) node_->hooks(output_).retains = true;
}

Tensor Tensor::grad() const {
  LOCKSTEP_CHECK(node_, "grad() of a constant: no gradient ever arrives there");
  if (node_->is_leaf()) {
    const Leaf& leaf = static_cast<const Leaf&>(*node_);
    return leaf.has_gradient() ? Tensor(leaf.gradient()) : Tensor();
  }
  LOCKSTEP_CHECK(node_->hooks_ && node_->hooks(output_).retains,
                 "grad() of a tensor that is not a leaf: retain_grad() keeps it");
  return node_->hooks(output_).retained;
}

void Tensor::zero_grad() const {
  LOCKSTEP_CHECK(node_, "zero_grad() of a constant");
  if (node_->is_leaf()) {
    static_cast<Leaf&>(*node_).zero_grad();
  } else if (node_->hooks_) {
    node_->hooks(output_).retained = Tensor();
  }
}

TensorHookList& Node::hooks(int output) {
  if (!hooks_) hooks_ = std::make_unique<TensorHooks>();
  hooks_->outputs.resize(outputs_);
  return hooks_->outputs[output];
}

void Node::set_origin(std::string origin) {
  if (!hooks_) hooks_ = std::make_unique<TensorHooks>();
  hooks_->origin = std::move(origin);
}

std::string Node::origin() const {
  return hooks_ && !hooks_->origin.empty() ? hooks_->origin : name_;
}

}  // namespace lockstep
