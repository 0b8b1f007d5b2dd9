#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "lockstep/autograd/tensor.h"

namespace lockstep::nn {

// How a parameter's values begin. Element i depends on the seed, the parameter's name and i alone:
// not on the number of ranks, nor on who fills which slice.
struct Initializer {
  enum class Kind : uint8_t { constant, normal, uniform } kind = Kind::constant;
  double a = 0;  // constant's value; normal's mean; uniform's lower bound
  double b = 0;  // normal's deviation; uniform's upper bound

  static Initializer zeros() { return {}; }
  static Initializer ones() { return {Kind::constant, 1, 0}; }
  static Initializer normal(double deviation) { return {Kind::normal, 0, deviation}; }
  static Initializer uniform(double bound) { return {Kind::uniform, -bound, bound}; }
};

// Where and in what dtype a module's state lives, and the seed of its initial values.
struct Placement {
  DType dtype = DType::f32;
  Device device = {};
  uint64_t seed = 0;
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

  // Gives it memory: `value` has its shape. What it held before moves there. The gradient's seat is
  // kept.
  void seat(Array value);
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
  };
  void make_tensor(Array value);

  std::shared_ptr<State> state_;
};

// State that is not trained: running statistics, counters. A handle, like Parameter.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Shape shape, double value) : state_(std::make_shared<State>(State{shape, value, {}})) {}

  const Shape& shape() const { return state_->shape; }
  bool placed() const { return static_cast<bool>(state_->array); }
  const Array& array() const;
  void place(DType dtype, Device device);
  const void* identity() const { return state_.get(); }

 private:
  struct State {
    Shape shape;
    double value;
    Array array;
  };
  std::shared_ptr<State> state_;
};

}  // namespace lockstep::nn
