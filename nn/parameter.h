#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/autograd/tensor.h"
#include "lockstep/runtime/context.h"

namespace lockstep::nn {

// How a parameter's values begin. Element i depends on the seed, the parameter's name and i alone:
// not on the number of ranks, nor on who fills which slice. nn/init.h makes them by torch.nn.init's
// formulas.
struct Initializer {
  enum class Kind : uint8_t { constant, normal, uniform, truncated_normal, orthogonal, eye };
  // What the numbers are divided by the square root of: a dimension of the parameter's shape as
  // torch.nn.init counts them; `average` is (in + out) / 2.
  enum class Fan : uint8_t { none, in, out, average };

  Kind kind = Kind::constant;
  double a = 0;  // constant: value; normal: mean; uniform: lower bound; orthogonal: gain
  double b = 0;  // normal: deviation; uniform: upper bound
  double low = 0, high = 0;  // truncated_normal: bounds
  Fan fan = Fan::none;
  int64_t zero_begin = 0, zero_end = 0;  // elements that are zero whatever the kind

  static Initializer zeros() { return {}; }
  static Initializer ones() { return {.a = 1}; }
  static Initializer normal(double deviation) { return {.kind = Kind::normal, .b = deviation}; }
  static Initializer uniform(double bound) {
    return {.kind = Kind::uniform, .a = -bound, .b = bound};
  }
  // The same but for `count` elements from `first` on, which are zero.
  Initializer with_zeros(int64_t first, int64_t count) const;

  // Writes elements [first, first + values.elements()) of a parameter of shape `shape` into
  // `values` (contiguous, floating).
  void fill(const Array& values, const Shape& shape, int64_t first, std::string_view name,
            uint64_t seed) const;
};

// Where and in what dtype a module's state lives, and the seed of its initial values.
struct Placement {
  DType dtype = DType::f32;
  Device device = context().device;
  uint64_t seed = 0;
};

// Keeps parameters in slices, one on each rank (nn/parallel/sharding.h).
class ShardOwner {
 public:
  virtual ~ShardOwner() = default;
  // This rank's slices have new values: every rank gets them. A collective call.
  virtual void values_changed() = 0;
  // In place, over the ranks. A collective call.
  virtual void sum(std::span<double> values) = 0;
  virtual void maximum(std::span<double> values) = 0;
};

// The part of a parameter that this rank updates: elements [begin, begin + value.elements()), of
// rank 1; it may have none. The gradient is that of the last finished step. Whoever changes values
// writes here, then calls values_changed() on all ranks: what is written to the whole is lost.
struct Shard {
  int64_t begin = 0;
  Array value;
  Array gradient;
  ShardOwner* owner = nullptr;
};

// A trained tensor of a module: a handle, copies share it (tied weights). It records shape and
// initialiser, and gets memory when its module is placed; who places it may later seat its value
// and gradient elsewhere (in flat buckets) under the module that uses it.
class Parameter {
 public:
  Parameter() = default;
  Parameter(Shape shape, Initializer initializer);

  explicit operator bool() const { return static_cast<bool>(state_); }
  const Shape& shape() const { return state_->shape; }
  int64_t elements() const { return state_->shape.elements(); }
  bool placed() const { return static_cast<bool>(state_->tensor); }
  DType dtype() const { return tensor().dtype(); }

  // The value as it enters ops. Throws Error while the parameter has no memory.
  const Tensor& tensor() const;
  operator const Tensor&() const { return tensor(); }
  // The same, and an empty tensor for an empty parameter: the bias of a layer without one.
  Tensor tensor_or_empty() const { return state_ ? tensor() : Tensor(); }

  // Gives it memory: `value` has its shape. What it held before moves there, unless the values are
  // there already. The gradient's seat is kept.
  void seat(Array value, bool has_values = false);
  // New memory of another dtype for a placed parameter, with the values converted. Its gradient is
  // gone. Throws Error where data parallelism or anything else holds its memory's place.
  void convert(DType dtype);

  const Initializer& initializer() const { return state_->initializer; }
  // For a parameter that has no memory yet.
  void set_initializer(Initializer initializer);
  // Writes initial values of elements [first, first + values.elements()) into `values`
  // (contiguous).
  void initialize(const Array& values, int64_t first, std::string_view name, uint64_t seed) const;

  // A frozen parameter takes no gradient and no update.
  bool frozen() const { return state_->frozen; }
  void set_frozen(bool frozen);

  Leaf& leaf() const;
  // What backward has added up; empty if nothing.
  Tensor grad() const {
    return state_->leaf && leaf().has_gradient() ? Tensor(leaf().gradient()) : Tensor();
  }

  // True while a gradient is not yet the group's mean: an optimizer refuses to step.
  bool reduction_pending() const { return state_->reduction_pending; }
  void set_reduction_pending(bool pending) const { state_->reduction_pending = pending; }

  // Null where every rank updates the whole.
  const Shard* shard() const { return state_->shard ? &*state_->shard : nullptr; }
  void set_shard(std::optional<Shard> shard) const { state_->shard = std::move(shard); }
  // What this rank updates: the shard's value, or all of it.
  const Array& own_value() const { return shard() ? shard()->value : tensor().value(); }
  const Array& own_gradient() const { return shard() ? shard()->gradient : leaf().gradient(); }
  int64_t own_begin() const { return shard() ? shard()->begin : 0; }
  // Copies the values of the whole, which are the same on all ranks, converting the dtype. Of a
  // sharded parameter only the shard; values_changed() brings it to the others.
  void assign(const Array& values) const;

  // Identity: equal for tied handles.
  const void* identity() const { return state_.get(); }

 private:
  struct State {
    Shape shape;
    Initializer initializer;
    Tensor tensor;
    Ref<Node> leaf;
    bool frozen = false;
    bool reduction_pending = false;
    std::optional<Shard> shard = {};
  };
  void make_tensor(Array value);

  std::shared_ptr<State> state_;
};

// Those of sharded parameters, each once, in the order of the parameters: the same on all ranks.
std::vector<ShardOwner*> shard_owners(std::span<const Parameter> parameters);

// State that is not trained: running statistics, counters. A handle, like Parameter. It has the
// dtype of the placement, or always the one it was made with; it lies on the placement's device, or
// always on the host.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Shape shape, double value, std::optional<DType> dtype = {})
      : state_(std::make_shared<State>(State{shape, value, dtype, false, {}})) {}
  // What the host counts with, and would else wait for.
  static Buffer on_host(Shape shape, double value, DType dtype) {
    Buffer buffer(shape, value, dtype);
    buffer.state_->on_host = true;
    return buffer;
  }

  explicit operator bool() const { return static_cast<bool>(state_); }
  const Shape& shape() const { return state_->shape; }
  bool placed() const { return static_cast<bool>(state_->array); }
  const Array& array() const;
  // Moves what it held before.
  void place(DType dtype, Device device);
  // Goes on in `memory`, of its shape and dtype.
  void seat(Array memory);
  const void* identity() const { return state_.get(); }

 private:
  struct State {
    Shape shape;
    double value;
    std::optional<DType> dtype;
    bool on_host;
    Array array;
  };
  std::shared_ptr<State> state_;
};

}  // namespace lockstep::nn
