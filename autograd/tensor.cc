#include "lockstep/autograd/tensor.h"

#include "lockstep/autograd/anomaly.h"
#include "lockstep/autograd/checkpoint.h"
#include "lockstep/autograd/hooks.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep {

Tensor::Tensor(Scalar scalar) : value_(scalar.to_array(scalar.dtype())), weak_(true) {}

Tensor::Tensor(Array value, Ref<Node> node, int output)
    : value_(std::move(value)), node_(std::move(node)), output_(output) {}

Tensor Tensor::variable(Array value) {
  LOCKSTEP_CHECK(is_floating(value.dtype()), "a ", value.dtype(),
                 " tensor cannot require a gradient");
  Ref<Node> leaf(new Leaf(value));
  return Tensor(std::move(value), std::move(leaf), 0);
}

const Array& Tensor::array() const {
  LOCKSTEP_CHECK(!(node_ && recording()),
                 "array() of a tensor that requires a gradient: use detach() or NoGrad");
  return value_;
}

bool Tensor::is_leaf() const { return !node_ || node_->is_leaf(); }

Tensor& Tensor::requires_grad_(bool requires_grad) {
  LOCKSTEP_CHECK(is_leaf(), "requires_grad_() of a tensor that an op recorded: use detach()");
  if (requires_grad && !node_) *this = variable(value_);
  if (!requires_grad) *this = detach();
  return *this;
}

Node::Node(const char* name, int outputs)
    : name_(name), id_(context().next_node_id++), outputs_(outputs) {}

Node::~Node() = default;

void Node::connect(std::span<const Tensor* const> inputs) {
  edge_count_ = static_cast<int>(inputs.size());
  if (edge_count_ > kInline) edges_.resize(inputs.size());
  std::span<Edge> into = edges();
  for (size_t i = 0; i < inputs.size(); ++i) into[i] = {inputs[i]->node(), inputs[i]->output()};
  if (context().anomaly != nullptr) [[unlikely]]
    context().anomaly->recorded(*this);
}

void Node::destroy() {
  // Freeing a node frees its edges' nodes in turn; the outermost call takes them one by one.
  thread_local std::vector<Node*> waiting;
  thread_local bool draining = false;
  waiting.push_back(this);
  if (draining) return;
  draining = true;
  while (!waiting.empty()) {
    Node* node = waiting.back();
    waiting.pop_back();
    delete node;
  }
  draining = false;
}

void Node::set_output(int output, const Array& value) {
  if (output > 0 && !other_outputs_) other_outputs_ = std::make_unique<Output[]>(outputs_ - 1);
  Output& into = output == 0 ? first_output_ : other_outputs_[output - 1];
  into.shape = value.shape();
  into.dtype = value.dtype();
}

Leaf::Leaf(const Array& value) : Node("leaf", 1) { set_output(0, value); }

void Leaf::seat_gradient(Array memory) {
  if (memory) {
    const auto& [shape, dtype] = output(0);
    LOCKSTEP_CHECK(memory.shape() == shape && memory.dtype() == dtype && memory.contiguous(),
                   "a gradient of shape ", shape, " ", dtype, " cannot be kept in an array of ",
                   memory.shape(), " ", memory.dtype());
    if (has_gradient_) kernels::copy_into(gradient_, memory);
  } else {
    has_gradient_ = false;
  }
  seated_ = static_cast<bool>(memory);
  gradient_ = std::move(memory);
}

void Leaf::zero_grad() {
  LOCKSTEP_CHECK(!busy_, "zero_grad: the gradient of shape ", shape(),
                 " is being reduced over the ranks; call finish() of the data parallelism first");
  has_gradient_ = false;
}

Into Leaf::offer() {
  if (busy_ || away_) vacate_();
  if (seated_) return {gradient_, has_gradient_ ? 1.0 : 0.0};
  if (!has_gradient_ || !owns_gradient()) return {};
  return {gradient_, 1};
}

// An own gradient may be what flowed here and is used elsewhere, or be expanded: not to be added to
// in place.
bool Leaf::owns_gradient() const { return gradient_.contiguous() && gradient_.storage()->unique(); }

// A part of what came for several leaves would keep all of it.
const Array& Leaf::writable_gradient() {
  const bool part = gradient_ && gradient_.bytes() < gradient_.storage()->bytes();
  if (has_gradient_ && !seated_ && (part || !owns_gradient())) gradient_ = kernels::copy(gradient_);
  return gradient_;
}

void Leaf::accumulate(const Tensor& gradient, const Into& offered) {
  const Array& value = gradient.value();
  const DType dtype = output(0).dtype;
  if (busy_ || away_) vacate_();
  if (offered && value.storage() == offered.destination.storage() && value.same_window(gradient_)) {
    // Already there.
  } else if (has_gradient_ && (seated_ || offered || owns_gradient())) {
    kernels::scale_add(1, kernels::cast(value, dtype), 1, gradient_);
  } else if (has_gradient_) {
    Array sum = kernels::copy(gradient_);
    kernels::scale_add(1, kernels::cast(value, dtype), 1, sum);
    gradient_ = std::move(sum);
  } else if (seated_) {
    kernels::copy_into(value, gradient_);
  } else {
    gradient_ = kernels::contiguous(kernels::cast(value, dtype));
  }
  has_gradient_ = true;
}

void Saved::changed() const {
  fail({"a value of shape ", tensor_.shape(), " saved for backward was changed in place (version ",
        tensor_.value().storage()->version(), ", saved at ", version_, ")"});
}

bool records(std::span<const Tensor* const> inputs) {
  if (!recording()) {
    if (context().touched != nullptr) [[unlikely]]
      context().touched->add(inputs);
    return false;
  }
  for (const Tensor* input : inputs) {
    if (input->requires_grad()) return true;
  }
  return false;
}

namespace internal {

void trace(const OpDescription& op, std::span<const Tensor* const> inputs, const Array& output) {
  std::vector<Array> arrays;
  for (const Tensor* input : inputs) arrays.push_back(input->value());
  context().tracer->op(op, arrays, output);
}

}  // namespace internal
}  // namespace lockstep
