#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "lockstep/autograd/scalar.h"
#include "lockstep/runtime/array.h"
#include "lockstep/runtime/context.h"

namespace lockstep {

class Node;
class Tensor;
struct TensorHook;
struct TensorHookList;
struct TensorHooks;

// Sees a gradient; what it returns takes its place, unless that is empty.
using GradientHook = std::function<Tensor(const Tensor&)>;

// What register_hook() added. A handle that is forgotten leaves its hook in place.
class HookHandle {
 public:
  // The hook is not called again. Nothing happens where the tensor is gone, or a second time.
  void remove();

 private:
  friend class Tensor;
  std::weak_ptr<TensorHook> hook_;
};

struct BackwardOptions {
  // Keep the closures, so that backward can run through the same graph again.
  bool retain_graph = false;
};

// What users compute with: an array and how it was made. Copies share both. A Tensor without a
// history is a constant; an Array converts to one implicitly.
class Tensor {
 public:
  Tensor() = default;
  Tensor(Array value) : value_(std::move(value)) {}
  // A weak scalar: takes the dtype (unless it is of a higher category, see scalar.h) and device of
  // the tensor it meets. Literals in formulas.
  explicit Tensor(Scalar scalar);
  Tensor(Array value, Ref<Node> node, int output);
  // As weak as a scalar, at any shape: constants that formulas make of literals.
  static Tensor weak(Array value) {
    Tensor result(std::move(value));
    result.weak_ = true;
    return result;
  }

  // A leaf: gradients arrive in grad().
  static Tensor variable(Array value);

  explicit operator bool() const { return static_cast<bool>(value_); }
  const Shape& shape() const { return value_.shape(); }
  // The size of one dimension; counts from the end when negative.
  int64_t dim(int i) const { return value_.dim(i); }
  int64_t size(int i) const;
  int rank() const { return value_.rank(); }
  int64_t elements() const { return value_.elements(); }
  DType dtype() const { return value_.dtype(); }
  Device device() const { return value_.device(); }
  bool is_weak_scalar() const { return weak_; }

  // The values. Throws Error while ops record and this tensor requires a gradient: what is done to
  // an array is invisible to autograd. Use detach() or NoGrad.
  const Array& array() const;
  // The values without that check: for those who write ops.
  const Array& value() const { return value_; }
  // The only element.
  double item() const { return value_.item(); }
  template <class T>
  T item() const {
    LOCKSTEP_CHECK(elements() == 1, "item: the tensor has shape ", shape(),
                   ", expected one element");
    return value_.to_vector<T>()[0];
  }
  template <class T>
  std::vector<T> to_vector() const {
    return value_.to_vector<T>();
  }

  bool requires_grad() const { return static_cast<bool>(node_); }
  bool is_leaf() const;
  // The same values as a constant.
  Tensor detach() const { return Tensor(value_); }
  // The same values in memory of their own.
  Tensor clone() const;
  // Makes this handle a leaf, or a constant again. Of a tensor that an op recorded: Error.
  Tensor& requires_grad_(bool requires_grad = true);
  // Converted or copied where it has to be; differentiable.
  Tensor to(DType dtype) const;
  Tensor to(Device device) const;
  // Swaps two dimensions; the last two when none are named.
  Tensor transpose(int a, int b) const;
  Tensor mT() const { return transpose(-2, -1); }

  // The ops of the same names (autograd/ops), in the form that is typed most. `t` is transpose of
  // what has at most two dimensions.
  Tensor t() const;
  Tensor permute(std::vector<int> order) const;
  Tensor reshape(const Shape& shape) const;
  Tensor view(const Shape& shape) const;
  Tensor flatten(int first = 0, int last = -1) const;
  Tensor squeeze(std::optional<int> dim = {}) const;
  Tensor unsqueeze(int dim) const;
  Tensor contiguous() const;
  Tensor sum(std::vector<int> dims = {}, bool keepdim = false) const;
  Tensor mean(std::vector<int> dims = {}, bool keepdim = false) const;
  Tensor matmul(const Tensor& other) const;

  // Of a leaf, or of an intermediate tensor that retains its gradient: what backward has added up
  // since zero_grad(); empty if nothing.
  Tensor grad() const;
  void zero_grad() const;
  // backward() keeps the gradient of this intermediate tensor, as its hooks leave it. A leaf's is
  // always kept.
  void retain_grad() const;

  // Calls `hook(gradient)` in every pass that finds this tensor's gradient, once, when it is
  // complete: the sum over all uses in that pass. A hook may return a gradient (same shape and
  // dtype) that takes its place, or nothing. Hooks run in the order in which they were added,
  // before a leaf adds the gradient to grad(). A hook that holds the tensor itself keeps it alive
  // for ever.
  template <class F>
  HookHandle register_hook(F hook) const {
    if constexpr (std::is_void_v<std::invoke_result_t<F&, const Tensor&>>) {
      return add_hook([hook = std::move(hook)](const Tensor& gradient) mutable {
        hook(gradient);
        return Tensor();
      });
    } else {
      return add_hook(std::move(hook));
    }
  }

  // Adds d(this)/d(leaf) to every leaf this was computed from. `gradient` may be left out for a
  // single element. Closures are dropped as they have run, unless the graph is retained.
  void backward(BackwardOptions options = {}) const;
  void backward(const Tensor& gradient, BackwardOptions options = {}) const;

  const Ref<Node>& node() const { return node_; }
  int output() const { return output_; }

 private:
  HookHandle add_hook(GradientHook hook) const;

  Array value_;
  Ref<Node> node_;  // null for constants
  int output_ = 0;  // which of the node's outputs
  bool weak_ = false;
};

class Gradients;

// One recorded op with k outputs. Edges point at its inputs only. Belongs to the thread that made
// it. Freed through a work list: graphs may be deep.
class Node : public RefCounted {
 public:
  struct Edge {
    Ref<Node> node;  // null where the input needs no gradient
    int output = 0;
  };
  struct Output {
    Shape shape;
    DType dtype = DType::f32;
  };

  const char* name() const { return name_; }
  uint64_t id() const { return id_; }  // creation order in this thread
  int outputs() const { return outputs_; }
  const Output& output(int i) const { return i == 0 ? first_output_ : other_outputs_[i - 1]; }
  std::span<Edge> edges() {
    return {edge_count_ <= kInline ? inline_edges_ : edges_.data(),
            static_cast<size_t>(edge_count_)};
  }
  void connect(std::span<const Tensor* const> inputs);
  // The gradient of this output has the value's shape and dtype.
  void set_output(int output, const Array& value);
  virtual bool is_leaf() const { return false; }
  // What DetectAnomaly saw of the op while it ran; else its name.
  std::string origin() const;
  void set_origin(std::string origin);

 protected:
  Node(const char* name, int outputs);
  ~Node() override;
  void destroy() override;

 private:
  friend class Engine;
  friend class Gradients;
  friend class Tensor;

  // Adds the inputs' gradients, given those of the outputs (absent ones empty).
  virtual void run(std::span<const Tensor> gradients, Gradients& out) = 0;
  // Frees the closure and what it saved. `dropped` afterwards.
  virtual void drop() = 0;
  virtual bool dropped() const = 0;

  // State of one run of the engine; saved and restored around a nested run.
  struct RunState {
    uint64_t run = 0;     // 0: not part of a run
    int pending = 0;      // consumers that have not run
    bool target = false;  // its gradient is asked for
    bool needed = false;  // leads to a target
    bool received = false;
    Tensor first;              // gradient of output 0
    std::vector<Tensor> rest;  // of outputs 1 …
  };

  // Of one output; made on first need.
  TensorHookList& hooks(int output);

  static constexpr int kInline = 3;
  const char* name_;
  uint64_t id_;
  int outputs_;
  int edge_count_ = 0;
  Edge inline_edges_[kInline];
  std::vector<Edge> edges_;
  Output first_output_;
  std::unique_ptr<Output[]> other_outputs_;
  RunState state_;
  std::unique_ptr<TensorHooks> hooks_;  // null: none on any output
};

// Where gradients end: a tensor that is trained. The memory for its gradient may be given in
// advance (a slice of a flat bucket); the first write of a step overwrites what is there, so
// nothing needs zeroing.
class Leaf final : public Node {
 public:
  explicit Leaf(const Array& value);

  const Shape& shape() const { return output(0).shape; }
  bool is_leaf() const override { return true; }

  bool has_gradient() const { return has_gradient_; }
  // Valid when has_gradient(), or when memory was given.
  const Array& gradient() const { return gradient_; }
  // The same for who changes it in place: in memory that nobody else uses.
  const Array& writable_gradient();
  // Gradients from now on are accumulated in `memory`, which has the leaf's shape and is dense.
  // What was accumulated before moves there. Empty: memory of its own, on first need.
  void seat_gradient(Array memory);
  bool seated() const { return seated_; }
  // Throws Error while busy: what is being reduced cannot be taken back.
  void zero_grad();
  // As if a backward pass had left it: the memory holds a gradient, or not.
  void set_has_gradient(bool has) { has_gradient_ = has; }

  // Called in the outermost backward pass, the moment the last consumer of the leaf has run and
  // only if a gradient arrived. One hook; empty: none.
  void set_hook(std::function<void()> hook) { hook_ = std::move(hook); }
  bool has_hook() const { return static_cast<bool>(hook_); }
  // Where a captured pass is replayed, the replay knows when it has come so far that the gradient
  // of a marked leaf is complete (runtime/capture.h).
  void set_marked(bool marked) { marked_ = marked; }
  bool marked() const { return marked_; }

  // While busy, the gradient's memory is somebody's who reads it (a reduction under way): before
  // anything is written there `vacate` is called, which gives the leaf other memory.
  void set_busy(bool busy) { busy_ = busy; }
  bool busy() const { return busy_; }
  void set_vacate(std::function<void()> vacate) { vacate_ = std::move(vacate); }
  // While away, the gradient's memory is not there yet (a sharded bucket between passes): before
  // anything is written, `vacate` is called and brings it.
  void set_away(bool away) { away_ = away; }

 private:
  friend class Engine;
  friend class Gradients;
  void run(std::span<const Tensor>, Gradients&) override {}
  void drop() override {}
  bool dropped() const override { return false; }
  void accumulate(const Tensor& gradient, const struct Into& offered);
  struct Into offer();
  bool owns_gradient() const;

  Array gradient_;
  bool seated_ = false;
  bool has_gradient_ = false;
  bool busy_ = false;
  bool away_ = false;
  bool marked_ = false;
  std::function<void()> hook_;
  std::function<void()> vacate_;
};

// Nothing is recorded while one lives, on this thread, nor noted by a checkpoint() around it.
class NoGrad {
 public:
  NoGrad() : gradients_(context().gradients), touched_(context().touched) {
    context().gradients = false;
    context().touched = nullptr;
  }
  ~NoGrad() {
    context().gradients = gradients_;
    context().touched = touched_;
  }
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  bool gradients_;
  TouchedTensors* touched_;
};

// backward() from several tensors in one pass: of sum over i of sum(tensors[i] * gradients[i]).
// `gradients` may be left out where every tensor has one element.
void backward(std::span<const Tensor> tensors, std::span<const Tensor> gradients = {},
              BackwardOptions options = {});

struct GradOptions {
  // Record the gradients' own computation, so that they can be differentiated. Implies retaining.
  bool create_graph = false;
  bool retain_graph = false;
  // An input that no output depends on gets an empty tensor instead of an error.
  bool allow_unused = false;
};

// Gradients of sum over i of sum(outputs[i] * seeds[i]) with respect to `inputs` (leaves or
// intermediate tensors). Accumulates into no leaf, so that no leaf's own hook fires; those of
// register_hook() are called. `seeds` may be left out where every output has one element.
std::vector<Tensor> grad(std::span<const Tensor> outputs, std::span<const Tensor> inputs,
                         std::span<const Tensor> seeds = {}, GradOptions options = {});
// The same for lists written in place: grad({u}, {x}, {ones_like(u)}, {.create_graph = true}).
inline std::vector<Tensor> grad(const std::vector<Tensor>& outputs,
                                const std::vector<Tensor>& inputs, const std::vector<Tensor>& seeds,
                                GradOptions options = {}) {
  return grad(std::span<const Tensor>(outputs), std::span<const Tensor>(inputs),
              std::span<const Tensor>(seeds), options);
}
Tensor grad(const Tensor& output, const Tensor& input, GradOptions options = {});

}  // namespace lockstep
