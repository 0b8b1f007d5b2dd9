#include "lockstep/autograd/engine.h"

#include <algorithm>

#include "lockstep/autograd/ops.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep {
namespace {

struct Runs {  // of this thread
  uint64_t last_id = 0;
  int depth = 0;
};

Runs& runs() {
  thread_local Runs current;
  return current;
}

bool older(const Ref<Node>& a, const Ref<Node>& b) { return a->id() < b->id(); }

}  // namespace

Engine::Engine(std::span<const Tensor> roots, std::span<const Tensor> targets, Options options)
    : options_(options), id_(++runs().last_id), outermost_(runs().depth == 0) {
  ++runs().depth;
  for (const Tensor& target : targets) targets_.emplace_back(target.node().get(), target.output());
  discover(roots);
  if (!options_.accumulate) mark_needed(targets);
}

Engine::~Engine() {
  for (const Ref<Node>& node : nodes_) node->state_ = RunState();
  for (Shared& shared : shared_) shared.node->state_ = std::move(shared.state);
  --runs().depth;
}

Node::RunState& Engine::enter(Node& node) {
  if (node.state_.run != 0) shared_.push_back({&node, std::move(node.state_)});
  node.state_ = RunState();
  node.state_.run = id_;
  nodes_.emplace_back(&node);
  return node.state_;
}

void Engine::discover(std::span<const Tensor> roots) {
  for (const Tensor& root : roots) {
    if (root.node() && root.node()->state_.run != id_) enter(*root.node());
  }
  for (size_t next = 0; next < nodes_.size(); ++next) {
    Node& node = *nodes_[next];
    for (Node::Edge& edge : node.edges()) {
      if (!edge.node) continue;
      if (edge.node->state_.run != id_) enter(*edge.node);
      ++edge.node->state_.pending;
    }
  }
}

// Inputs are older than what consumes them, so one pass from the oldest settles every node.
void Engine::mark_needed(std::span<const Tensor> targets) {
  for (const Tensor& target : targets) {
    if (target.node()->state_.run == id_) target.node()->state_.needed = true;
  }
  std::vector<Node*> by_age;
  for (const Ref<Node>& node : nodes_) by_age.push_back(node.get());
  std::sort(by_age.begin(), by_age.end(),
            [](const Node* a, const Node* b) { return a->id() < b->id(); });
  for (Node* node : by_age) {
    for (Node::Edge& edge : node->edges()) {
      if (edge.node && edge.node->state_.needed) node->state_.needed = true;
    }
  }
}

Tensor& Engine::slot(Node& node, int output) {
  if (output == 0) return node.state_.first;
  node.state_.rest.resize(node.outputs() - 1);
  return node.state_.rest[output - 1];
}

void Engine::seed(const Tensor& root, const Tensor& gradient) {
  LOCKSTEP_CHECK(gradient.shape() == root.shape(), "backward: a gradient of shape ",
                 gradient.shape(), " for an output of shape ", root.shape());
  Tensor& into = slot(*root.node(), root.output());
  into = into ? into + gradient : gradient;
  root.node()->state_.received = true;
}

void Engine::push_ready(Ref<Node> node) {
  ready_.push_back(std::move(node));
  std::push_heap(ready_.begin(), ready_.end(), older);
}

void Engine::run() {
  const bool before = context().gradients;
  context().gradients = options_.create_graph;
  struct Restore {
    bool value;
    ~Restore() { context().gradients = value; }
  } restore{before};
  for (const Ref<Node>& node : nodes_) {
    if (node->state_.pending == 0) push_ready(node);
  }
  while (!ready_.empty()) {
    std::pop_heap(ready_.begin(), ready_.end(), older);
    const Ref<Node> node = std::move(ready_.back());
    ready_.pop_back();
    run_node(node);
  }
}

void Engine::run_node(const Ref<Node>& node) {
  RunState& state = node->state_;
  if (node->is_leaf()) {
    // A root that is itself a leaf.
    if (options_.accumulate && state.first) {
      const Tensor gradient = std::move(state.first);
      static_cast<Leaf&>(*node).accumulate(gradient, {});
      finish_leaf(static_cast<Leaf&>(*node));
    }
    return;
  }
  if (state.received && wanted(*node)) {
    LOCKSTEP_CHECK(!node->dropped(), node->name(),
                   ": backward through it a second time, after what it saved was freed; the first "
                   "pass must retain the graph");
    // Taken out of the node, unless they are what grad() returns: freed when the closure is done.
    const bool keep = std::any_of(targets_.begin(), targets_.end(),
                                  [&](const auto& target) { return target.first == node.get(); });
    Tensor only = keep ? state.first : std::move(state.first);
    std::span<const Tensor> gradients(&only, 1);
    std::vector<Tensor> all;
    if (node->outputs() > 1) {
      slot(*node, 1);
      all = keep ? state.rest : std::move(state.rest);
      all.insert(all.begin(), std::move(only));
      gradients = all;
    }
    Gradients sink(*this, *node);
    try {
      node->run(gradients, sink);
    } catch (const OutOfMemory&) {
      throw;
    } catch (const Error& error) {
      throw Error(concat({"backward of ", node->name(), ": ", error.what()}));
    }
  }
  release_inputs(*node);
}

// The node has run: its inputs have one consumer less, and its closure goes.
void Engine::release_inputs(Node& node) {
  const bool keep = options_.retain_graph || options_.create_graph;
  if (!keep && wanted(node)) node.drop();
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
  if (!options_.accumulate || !leaf.state_.received) return;
  if (outermost_ && leaf.hook_) leaf.hook_();
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
  if (edge.node->is_leaf() && engine_.options_.accumulate) {
    return static_cast<Leaf&>(*edge.node).offer();
  }
  const Tensor& there = Engine::slot(*edge.node, edge.output);
  if (!there || !there.value().contiguous() || !there.value().storage()->unique()) return {};
  return {there.value(), 1};
}

void Gradients::add(int i, const Tensor& gradient) { deliver(i, gradient, {}); }

void Gradients::deliver(int i, const Tensor& gradient, const Into& offered) {
  if (!needs(i) || !gradient) return;
  const Node::Edge& edge = node_.edges()[i];
  edge.node->state_.received = true;
  if (edge.node->is_leaf() && engine_.options_.accumulate) {
    static_cast<Leaf&>(*edge.node).accumulate(gradient, offered);
    return;
  }
  Tensor& there = Engine::slot(*edge.node, edge.output);
  if (!there) {
    there = gradient;
  } else if (engine_.options_.create_graph) {
    there = there + gradient;
  } else if (offered && gradient.value().same_window(there.value())) {
    // Already added.
  } else if (offered || (there.value().contiguous() && there.value().storage()->unique())) {
    kernels::scale_add(1, gradient.value(), 1, there.value());
  } else {
    there = there + gradient;
  }
}

Tensor Gradients::own(const Saved& value, int output) const {
  const Array& array = value.value();
  return recording() ? Tensor(array, Ref<Node>(&node_), output) : Tensor(array);
}

namespace {

Tensor ones_like(const Tensor& x) { return Array::full(x.shape(), 1, x.dtype(), x.device()); }

}  // namespace

void Tensor::backward(BackwardOptions options) const {
  LOCKSTEP_CHECK(elements() == 1, "backward() of a tensor of shape ", shape(),
                 " needs a gradient: only a single element has the gradient 1");
  backward(ones_like(*this), options);
}

void Tensor::backward(const Tensor& gradient, BackwardOptions options) const {
  LOCKSTEP_CHECK(requires_grad(),
                 "backward() of a constant: nothing it was computed from requires "
                 "a gradient, or it was computed under NoGrad");
  Engine engine({this, 1}, {}, {.retain_graph = options.retain_graph});
  engine.seed(*this, gradient);
  engine.run();
}

std::vector<Tensor> grad(std::span<const Tensor> outputs, std::span<const Tensor> inputs,
                         std::span<const Tensor> seeds, GradOptions options) {
  LOCKSTEP_CHECK(seeds.empty() || seeds.size() == outputs.size(), "grad: ", seeds.size(),
                 " seeds for ", outputs.size(), " outputs");
  for (size_t i = 0; i < inputs.size(); ++i) {
    LOCKSTEP_CHECK(inputs[i].requires_grad(), "grad: input ", i, " does not require a gradient");
  }
  Engine engine(outputs, inputs,
                {.create_graph = options.create_graph,
                 .retain_graph = options.retain_graph,
                 .accumulate = false});
  for (size_t i = 0; i < outputs.size(); ++i) {
    LOCKSTEP_CHECK(outputs[i].requires_grad(), "grad: output ", i, " is a constant");
    LOCKSTEP_CHECK(!seeds.empty() || outputs[i].elements() == 1, "grad: output ", i, " of shape ",
                   outputs[i].shape(), " needs a seed");
    engine.seed(outputs[i], seeds.empty() ? ones_like(outputs[i]) : seeds[i]);
  }
  engine.run();
  std::vector<Tensor> gradients;
  for (size_t i = 0; i < inputs.size(); ++i) {
    gradients.push_back(engine.gradient_of(inputs[i]));
    LOCKSTEP_CHECK(gradients.back() || options.allow_unused, "grad: input ", i,
                   " does not influence the outputs");
  }
  return gradients;
}

Tensor grad(const Tensor& output, const Tensor& input, GradOptions options) {
  return grad({&output, 1}, {&input, 1}, {}, options)[0];
}

}  // namespace lockstep
