#pragma once

#include <vector>

#include "lockstep/autograd/record.h"
#include "lockstep/autograd/tensor.h"

namespace lockstep {

// One backward pass over a recorded graph: count consumers, then run the newest node whose
// consumers have all run. The order is a function of the program alone, so every rank sees its
// gradients become ready in the same order. No recursion. Used by backward() and grad() only.
class Engine {
 public:
  struct Options {
    bool create_graph = false;
    bool retain_graph = false;
    bool accumulate = true;  // into leaves, firing hooks; else gradients of `targets` are kept
    // Partial derivatives: every target counts as independent of the others, nothing beyond one is
    // walked, and hooks of targets stay silent: they are the business of the run around this one.
    bool partial = false;
  };

  Engine(std::span<const Tensor> roots, std::span<const Tensor> targets, Options options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  void seed(const Tensor& root, const Tensor& gradient);
  void run();
  // Of a target, after run(); empty if nothing flowed to it.
  Tensor gradient_of(const Tensor& target);

  // Whether a pass is under way on this thread.
  static bool running();

 private:
  friend class Gradients;
  using RunState = Node::RunState;

  struct Shared {  // a node that an outer run is using too
    Node* node;
    RunState state;
  };

  void discover(std::span<const Tensor> roots);
  void mark_needed(std::span<const Tensor> targets);
  RunState& enter(Node& node);
  // Whether anyone asks for the gradient of the node's outputs, or for what its closure makes.
  bool wanted(const Node& node) const { return node.state_.target || runs(node); }
  bool runs(const Node& node) const { return options_.accumulate || node.state_.needed; }
  // Into the leaf's memory at once, where no hook must see the pass's whole gradient first.
  bool accumulates_at_once(const Node& node) const {
    return options_.accumulate && node.is_leaf() && !node.hooks_;
  }
  bool boundary(const Node& node) const { return options_.partial && node.state_.target; }
  // Whether a closure may run again.
  bool keeps_closures() const { return options_.retain_graph || options_.create_graph; }
  void call_hooks(Node& node);
  void run_closure(Node& node);
  void run_node(const Ref<Node>& node);
  void release_inputs(Node& node);
  void finish_leaf(Leaf& leaf);
  void push_ready(Ref<Node> node);
  static Tensor& slot(Node& node, int output);

  Options options_;
  uint64_t id_;
  bool outermost_;
  std::vector<Ref<Node>> nodes_;  // all of this run
  std::vector<Ref<Node>> ready_;  // heap, newest first
  std::vector<Shared> shared_;
};

namespace internal {

// The gradients of sum over i of sum(outputs[i] * seeds[i]) with respect to `inputs`, each taken as
// independent of the others; empty where there is no influence. For closures that differentiate a
// function they run anew.
std::vector<Tensor> partial_gradients(std::span<const Tensor> outputs,
                                      std::span<const Tensor> inputs, std::span<const Tensor> seeds,
                                      bool create_graph);

}  // namespace internal

}  // namespace lockstep
