#include "lockstep/autograd/engine.h"

#include <algorithm>
#include <typeinfo>

#include "lockstep/autograd/anomaly.h"
#include "lockstep/autograd/hooks.h"
#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/runtime/capture.h"
#include "lockstep/runtime/ops/convolution.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "lockstep/runtime/pager.h"

namespace lockstep {
namespace {

struct Runs {  // of this thread
  uint64_t last_id = 0;
  int depth = 0;
};

Runs& runs_of_thread() {
  thread_local Runs current;
  return current;
}

// Whether a gradient may be added to where it is: nobody else sees that memory, and no element of
// it is several.
bool is_own(const Array& gradient) {
  return gradient.storage()->unique() &&
         (gradient.contiguous() || kernels::is_channels_last(gradient));
}

bool older(const Ref<Node>& a, const Ref<Node>& b) { return a->id() < b->id(); }

}  // namespace

Engine::Engine(std::span<const Tensor> roots, std::span<const Tensor> targets, Options options)
    : options_(options), id_(++runs_of_thread().last_id), outermost_(runs_of_thread().depth == 0) {
  ++runs_of_thread().depth;
  if (options_.partial) {
    for (const Tensor& target : targets) enter(*target.node()).target = true;
  }
  discover(roots);
  if (!options_.accumulate) mark_needed(targets);
}

bool Engine::running() { return runs_of_thread().depth > 0; }

Engine::~Engine() {
  for (const Ref<Node>& node : nodes_) node->state_ = RunState();
  for (Shared& shared : shared_) shared.node->state_ = std::move(shared.state);
  --runs_of_thread().depth;
}

Node::RunState& Engine::enter(Node& node) {
  if (node.state_.run == id_) return node.state_;
  if (node.state_.run != 0) shared_.push_back({&node, std::move(node.state_)});
  node.state_ = RunState();
  node.state_.run = id_;
  nodes_.emplace_back(&node);
  return node.state_;
}

void Engine::discover(std::span<const Tensor> roots) {
  for (const Tensor& root : roots) {
    if (root.node()) enter(*root.node());
  }
  for (size_t next = 0; next < nodes_.size(); ++next) {
    Node& node = *nodes_[next];
    if (boundary(node)) continue;
    for (Node::Edge& edge : node.edges()) {
      if (edge.node) ++enter(*edge.node).pending;
    }
  }
}

// Inputs are older than what consumes them, so one pass from the oldest settles every node.
void Engine::mark_needed(std::span<const Tensor> targets) {
  for (const Tensor& target : targets) {
    if (target.node()->state_.run == id_) target.node()->state_.target = true;
  }
  std::vector<Node*> by_age;
  for (const Ref<Node>& node : nodes_) by_age.push_back(node.get());
  std::sort(by_age.begin(), by_age.end(),
            [](const Node* a, const Node* b) { return a->id() < b->id(); });
  for (Node* node : by_age) {
    if (boundary(*node)) continue;
    for (Node::Edge& edge : node->edges()) {
      if (edge.node && wanted(*edge.node)) node->state_.needed = true;
    }
  }
}

Tensor& Engine::slot(Node& node, int output) {
  if (output == 0) return node.state_.first;
  node.state_.rest.resize(node.outputs() - 1);
  return node.state_.rest[output - 1];
}

void Engine::seed(const Tensor& root, const Tensor& gradient) {
  LOCKSTEP_CHECK(gradient && gradient.shape() == root.shape(), "backward: a gradient of shape ",
                 gradient.shape(), " for an output of shape ", root.shape());
  Tensor& into = slot(*root.node(), root.output());
  const Tensor converted = to(gradient, root.dtype());
  into = into ? into + converted : converted;
  root.node()->state_.received = true;
}

void Engine::push_ready(Ref<Node> node) {
  ready_.push_back(std::move(node));
  std::push_heap(ready_.begin(), ready_.end(), older);
}

void Engine::run() {
  // Gradients have the dtypes that their forward pass chose.
  struct Restore {
    bool gradients = context().gradients;
    AutocastState autocast = context().autocast;
    ~Restore() {
      context().gradients = gradients;
      context().autocast = autocast;
    }
  } restore;
  context().gradients = options_.create_graph;
  context().autocast.on = false;
  for (const Ref<Node>& node : nodes_) {
    if (node->state_.pending == 0) push_ready(node);
  }
  while (!ready_.empty()) {
    std::pop_heap(ready_.begin(), ready_.end(), older);
    const Ref<Node> node = std::move(ready_.back());
    ready_.pop_back();
    run_node(node);
    ParameterPager::tell_to_take_back();
    ParameterPager::tell_to_bring_ahead();
  }
}

void Engine::run_node(const Ref<Node>& node) {
  if (boundary(*node)) return;
  if (node->is_leaf()) return finish_leaf(static_cast<Leaf&>(*node));  // a root
  if (node->state_.received) {
    if (node->hooks_) call_hooks(*node);
    if (runs(*node)) run_closure(*node);
  }
  release_inputs(*node);
}

void Engine::call_hooks(Node& node) {
  for (int output = 0; output < node.outputs(); ++output) {
    Tensor& gradient = slot(node, output);
    if (!gradient) continue;
    gradient = node.hooks_->apply(output, std::move(gradient));
    if (options_.accumulate) node.hooks_->retain(output, gradient);
  }
}

void Engine::run_closure(Node& node) {
  LOCKSTEP_CHECK(!node.dropped(), node.name(),
                 ": backward through it a second time, after what it saved was freed; the first "
                 "pass must retain the graph");
  // Taken out of the node, unless they are what grad() returns: freed when the closure is done.
  RunState& state = node.state_;
  Tensor only = state.target ? state.first : std::move(state.first);
  std::span<const Tensor> gradients(&only, 1);
  std::vector<Tensor> all;
  if (node.outputs() > 1) {
    slot(node, 1);
    all = state.target ? state.rest : std::move(state.rest);
    all.insert(all.begin(), std::move(only));
    gradients = all;
  }
  Gradients sink(*this, node);
  try {
    node.run(gradients, sink);
  } catch (const Error& error) {
    // One of a kind of its own (out of memory, a collective) means something to who catches it.
    if (typeid(error) != typeid(Error)) throw;
    throw Error(concat({"backward of ", node.name(), ": ", error.what()}));
  }
}

// The node has run: its inputs have one consumer less, and its closure goes.
void Engine::release_inputs(Node& node) {
  if (!keeps_closures() && runs(node)) node.drop();
  for (Node::Edge& edge : node.edges()) {
    if (!edge.node || --edge.node->state_.pending > 0) continue;
    if (edge.node->is_leaf()) {
      finish_leaf(static_cast<Leaf&>(*edge.node));
    } else {
      push_ready(edge.node);
    }
  }
}

void Engine::finish_leaf(Leaf& leaf) {
  if (!leaf.state_.received || boundary(leaf)) return;
  if (leaf.hooks_) call_hooks(leaf);
  if (!options_.accumulate) return;
  if (const Tensor gradient = std::move(leaf.state_.first)) leaf.accumulate(gradient, {});
  leaf.writable_gradient();  // not the caller's memory, nor another leaf's
  if (!outermost_) return;
  if (context().capture == nullptr) [[likely]] {
    if (leaf.hook_) leaf.hook_();
    return;
  }
  const auto tell = [leaf = Ref<Leaf>(&leaf)] {
    leaf->set_has_gradient(true);
    if (leaf->hook_) leaf->hook_();
  };
  at_each_replay(tell, &leaf, leaf.marked_);
}

Tensor Engine::gradient_of(const Tensor& target) {
  if (target.node()->state_.run != id_) return Tensor();
  return slot(*target.node(), target.output());
}

bool Gradients::needs(int i) const {
  const Node::Edge& edge = node_.edges()[i];
  return edge.node && engine_.wanted(*edge.node);
}

Into Gradients::offer(int i) const {
  if (engine_.options_.create_graph || !needs(i)) return {};
  const Node::Edge& edge = node_.edges()[i];
  // The same input twice: the second offer could be taken before the first was delivered.
  for (int before = 0; before < i; ++before) {
    const Node::Edge& other = node_.edges()[before];
    if (other.node == edge.node && other.output == edge.output) return {};
  }
  if (engine_.accumulates_at_once(*edge.node)) return static_cast<Leaf&>(*edge.node).offer();
  const Tensor& there = Engine::slot(*edge.node, edge.output);
  if (!there || !is_own(there.value())) return {};
  return {there.value(), 1};
}

void Gradients::add(int i, const Tensor& gradient) { deliver(i, gradient, {}); }

void Gradients::deliver(int i, const Tensor& gradient, const Into& offered) {
  if (!needs(i) || !gradient) return;
  if (context().anomaly != nullptr) [[unlikely]]
    context().anomaly->check_gradient(node_, i, gradient);
  const Node::Edge& edge = node_.edges()[i];
  const auto& [shape, dtype] = edge.node->output(edge.output);
  LOCKSTEP_CHECK(gradient.shape() == shape, "a gradient of shape ", gradient.shape(), " for input ",
                 i, " of shape ", shape);
  edge.node->state_.received = true;
  if (engine_.accumulates_at_once(*edge.node)) {
    static_cast<Leaf&>(*edge.node).accumulate(gradient, offered);
    return;
  }
  // Closures count on the dtype as on the shape.
  if (gradient.dtype() != dtype) [[unlikely]]
    return deliver(i, to(gradient, dtype), offered);
  Tensor& there = Engine::slot(*edge.node, edge.output);
  if (!there) {
    there = gradient;
  } else if (engine_.options_.create_graph) {
    there = there + gradient;
  } else if (offered && gradient.value().same_window(there.value())) {
    // Already added.
  } else if (offered || is_own(there.value())) {
    kernels::scale_add(1, gradient.value(), 1, there.value());
  } else {
    there = there + gradient;
  }
}

Array Gradients::take(const Saved& value) const {
  if (engine_.keeps_closures() || !value.value().storage()->exclusive()) return {};
  Array memory = value.value();
  memory.storage()->bump_version();
  return memory;
}

Tensor Gradients::own(const Saved& value, int output) const {
  const Array& array = value.value();
  return recording() ? Tensor(array, Ref<Node>(&node_), output) : Tensor(array);
}

}  // namespace lockstep
