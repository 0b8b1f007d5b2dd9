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
  };

  Engine(std::span<const Tensor> roots, std::span<const Tensor> targets, Options options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  void seed(const Tensor& root, const Tensor& gradient);
  void run();
  // Of a target, after run(); empty if nothing flowed to it.
  Tensor gradient_of(const Tensor& target);

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
  bool wanted(const Node& node) const { return options_.accumulate || node.state_.needed; }
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
  std::vector<std::pair<Node*, int>> targets_;
};

}  // namespace lockstep
