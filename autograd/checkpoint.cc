#include "lockstep/autograd/checkpoint.h"

#include <algorithm>
#include <array>

#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/engine.h"
#include "lockstep/autograd/ops/add_recorded.h"
#include "lockstep/autograd/record.h"

namespace lockstep {

void TouchedTensors::add(std::span<const Tensor* const> inputs) {
  for (const Tensor* input : inputs) {
    if (!input->requires_grad()) continue;
    const bool known = std::any_of(tensors_.begin(), tensors_.end(), [&](const Tensor& tensor) {
      return tensor.node() == input->node() && tensor.output() == input->output();
    });
    if (!known) tensors_.push_back(*input);
  }
}

namespace internal {
namespace {

// Puts the thread's context back; nodes made meanwhile keep their place in the order.
class ContextGuard {
 public:
  ContextGuard() : before_(context()) {}
  ~ContextGuard() {
    before_.next_node_id = context().next_node_id;
    context() = before_;
  }
  ContextGuard(const ContextGuard&) = delete;
  ContextGuard& operator=(const ContextGuard&) = delete;

 private:
  Context before_;
};

// A call of f that can be made again.
class Recomputation {
 public:
  Recomputation(CheckpointFunction f, const std::vector<Tensor>& inputs,
                const std::vector<Tensor>& touched, const Context& before)
      : f_(std::move(f)), random_(before.random), autocast_(before.autocast) {
    for (const Tensor& input : inputs) inputs_.emplace_back(input);
    for (const Tensor& tensor : touched) touched_.emplace_back(tensor);
  }

  void backward(std::span<const Tensor> dys, Gradients& out) const {
    const bool recorded = recording();
    std::vector<Tensor> inputs, wanted;
    for (const Saved& input : inputs_) {
      // An input may be computed from another, or be used inside f as well: a node of its own.
      inputs.push_back(!input->requires_grad() ? *input
                       : recorded              ? alias(*input)
                                               : Tensor::variable(input.value()));
      if (input->requires_grad()) wanted.push_back(inputs.back());
    }
    for (const Saved& tensor : touched_) wanted.push_back(*tensor);
    const std::vector<Tensor> outputs = again(inputs);
    std::vector<Tensor> roots, seeds;
    LOCKSTEP_CHECK(outputs.size() == dys.size(), "checkpoint: the function returned ", dys.size(),
                   " tensors at first and ", outputs.size(), " when run again");
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (!dys[i] || !outputs[i].requires_grad()) continue;
      LOCKSTEP_CHECK(outputs[i].shape() == dys[i].shape(), "checkpoint: output ", i, " had shape ",
                     dys[i].shape(), " at first and ", outputs[i].shape(), " when run again");
      roots.push_back(outputs[i]);
      seeds.push_back(dys[i]);
    }
    const std::vector<Tensor> gradients = partial_gradients(roots, wanted, seeds, recorded);
    size_t next = 0;
    for (size_t i = 0; i < inputs_.size(); ++i) {
      if (inputs_[i]->requires_grad()) out.add(static_cast<int>(i), gradients[next++]);
    }
    for (size_t i = 0; i < touched_.size(); ++i) {
      out.add(static_cast<int>(inputs_.size() + i), gradients[next++]);
    }
  }

 private:
  std::vector<Tensor> again(const std::vector<Tensor>& inputs) const {
    const ContextGuard guard;
    Context& now = context();
    now.gradients = true;
    now.touched = nullptr;
    now.recomputing = true;
    now.random = random_;
    now.autocast = {};
    if (!autocast_.on) return f_(inputs);
    if (autocast_.lasting) {
      const Autocast autocast(*autocast_.copies);
      return f_(inputs);
    }
    const Autocast autocast(autocast_.dtype);
    return f_(inputs);
  }

  CheckpointFunction f_;
  std::vector<Saved> inputs_, touched_;
  RandomKey random_;
  AutocastState autocast_;
};

}  // namespace

std::vector<Tensor> checkpoint(const CheckpointFunction& f, std::vector<Tensor> inputs) {
  // Not recorded, or a part of what an outer checkpoint will run again.
  if (!recording()) return f(inputs);
  TouchedTensors touched;
  const Context before = context();
  std::vector<Tensor> outputs;
  {
    const NoGrad no_grad;
    context().touched = &touched;
    std::vector<Tensor> constants;
    for (const Tensor& input : inputs) constants.push_back(input.detach());
    outputs = f(constants);
  }
  // What f captures it may return unread.
  for (const Tensor& output : outputs) touched.add(std::array{&output});
  std::vector<const Tensor*> read;
  for (const Tensor& input : inputs) read.push_back(&input);
  for (const Tensor& tensor : touched.tensors()) read.push_back(&tensor);
  if (!records(read)) return outputs;
  // Not record_many(): tracers have seen the ops of f.
  auto backward = [call = Recomputation(f, inputs, touched.tensors(), before)](
                      std::span<const Tensor> dys, Gradients& out) { call.backward(dys, out); };
  const Ref<Node> node(new ClosureNode<decltype(backward)>(
      "checkpoint", static_cast<int>(outputs.size()), std::move(backward)));
  node->connect(read);
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!is_floating(outputs[i].dtype())) continue;
    node->set_output(static_cast<int>(i), outputs[i].value());
    outputs[i] = Tensor(outputs[i].value(), node, static_cast<int>(i));
  }
  return outputs;
}

}  // namespace internal
}  // namespace lockstep
