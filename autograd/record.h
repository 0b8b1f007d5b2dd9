#pragma once

#include <concepts>
#include <initializer_list>
#include <optional>
#include <utility>

#include "lockstep/autograd/tensor.h"
#include "lockstep/runtime/ops/into.h"
#include "lockstep/runtime/trace.h"

// For those who write ops: an op computes its value, then calls record() with a closure that turns
// the output's gradient into those of its inputs.
namespace lockstep {

// True where ops are being recorded on this thread.
inline bool recording() { return context().gradients; }

// True if an op on these inputs is to be recorded: ask before saving what only backward needs.
bool records(std::span<const Tensor* const> inputs);
inline bool records(std::initializer_list<const Tensor*> inputs) {
  return records(std::span(inputs.begin(), inputs.size()));
}

// A tensor kept for backward. Reading it checks that its values have not changed since. Holds
// nothing when not recording, or when told that it will not be needed.
class Saved {
 public:
  Saved() = default;
  explicit Saved(const Tensor& tensor, bool needed = true) {
    if (!needed || !recording() || !tensor) return;
    tensor_ = tensor;
    version_ = tensor.value().storage()->version();
  }

  explicit operator bool() const { return static_cast<bool>(tensor_); }
  const Tensor& operator*() const { return checked(); }
  const Tensor* operator->() const { return &checked(); }
  const Array& value() const { return checked().value(); }
  // The array, or an empty one where nothing was saved.
  Array value_or_empty() const { return tensor_ ? checked().value() : Array(); }

 private:
  const Tensor& checked() const {
    if (tensor_ && tensor_.value().storage()->version() != version_) [[unlikely]]
      changed();
    return tensor_;
  }
  [[noreturn]] void changed() const;

  Tensor tensor_;
  uint64_t version_ = 0;
};

// Where a closure puts the gradients of its inputs.
class Gradients {
 public:
  // Whether anyone wants the gradient of input i.
  bool needs(int i) const;

  // Of the input's shape, else an Error that names the function. Another dtype is converted.
  void add(int i, const Tensor& gradient);
  // `make(Into)` or `make()` is called only when input i needs a gradient. The Into is an offer:
  // memory where the gradient may go at once, contiguous or channels-last.
  template <class F>
  requires(!std::convertible_to<F, Tensor>) void add(int i, F&& make) {
    if (!needs(i)) return;
    if constexpr (std::invocable<F, Into>) {
      const Into offered = offer(i);
      deliver(i, make(offered), offered);
    } else {
      deliver(i, make(), Into());
    }
  }

  // For kernels that make several gradients at once: take the offers, then deliver each result.
  Into offer(int i) const;
  void deliver(int i, const Tensor& gradient, const Into& offered);

  // The memory of a saved value, for the closure to write over: empty unless the closure runs for
  // the last time and nobody else holds that memory. The value is gone then; reading it is an
  // error.
  Array take(const Saved& value) const;

  // The op's own output, saved as an array, as a tensor with its history while gradients are
  // recorded. (A closure that held the tensor itself would be a cycle.)
  Tensor own(const Saved& value, int output = 0) const;

 private:
  friend class Engine;
  Gradients(class Engine& engine, Node& node) : engine_(engine), node_(node) {}

  class Engine& engine_;
  Node& node_;
};

namespace internal {

template <class F>
class ClosureNode final : public Node {
 public:
  ClosureNode(const char* name, int outputs, F closure)
      : Node(name, outputs), closure_(std::move(closure)) {}

 private:
  void run(std::span<const Tensor> gradients, Gradients& out) override {
    if constexpr (std::invocable<F&, const Tensor&, Gradients&>) {
      (*closure_)(gradients[0], out);
    } else {
      (*closure_)(gradients, out);
    }
  }
  void drop() override { closure_.reset(); }
  bool dropped() const override { return !closure_.has_value(); }

  std::optional<F> closure_;
};

void trace(const OpDescription& op, std::span<const Tensor* const> inputs, const Array& output);

}  // namespace internal

// Tells the tracer of an op that has no gradient, and makes its result a constant.
inline Tensor constant(const OpDescription& op, Array value,
                       std::initializer_list<const Tensor*> inputs) {
  if (context().tracer != nullptr) {
    internal::trace(op, std::span(inputs.begin(), inputs.size()), value);
  }
  return Tensor(std::move(value));
}

// The result of an op with one output. `backward(const Tensor& dy, Gradients& out)`.
template <class F>
Tensor record(const OpDescription& op, Array value, std::initializer_list<const Tensor*> inputs,
              F backward) {
  const std::span<const Tensor* const> span(inputs.begin(), inputs.size());
  if (context().tracer != nullptr) internal::trace(op, span, value);
  if (!records(span)) return Tensor(std::move(value));
  Ref<Node> node(new internal::ClosureNode<F>(op.name, 1, std::move(backward)));
  node->connect(span);
  node->set_output(0, value);
  return Tensor(std::move(value), std::move(node), 0);
}

// An op with several outputs. `backward(std::span<const Tensor> dys, Gradients& out)`; outputs
// that nobody used have an empty dy.
template <class F>
std::vector<Tensor> record_many(const OpDescription& op, std::vector<Array> values,
                                std::span<const Tensor* const> inputs, F backward) {
  if (context().tracer != nullptr) {
    for (const Array& value : values) internal::trace(op, inputs, value);
  }
  Ref<Node> node;
  if (records(inputs)) {
    node = Ref<Node>(new internal::ClosureNode<F>(op.name, static_cast<int>(values.size()),
                                                  std::move(backward)));
    node->connect(inputs);
  }
  std::vector<Tensor> results;
  results.reserve(values.size());
  for (Array& value : values) {
    const int output = static_cast<int>(results.size());
    if (node) node->set_output(output, value);
    results.push_back(node ? Tensor(std::move(value), node, output) : Tensor(std::move(value)));
  }
  return results;
}

}  // namespace lockstep
