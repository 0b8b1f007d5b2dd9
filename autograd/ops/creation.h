#pragma once

#include <concepts>
#include <initializer_list>
#include <optional>
#include <span>
#include <vector>

#include "lockstep/autograd/tensor.h"

namespace lockstep {

struct TensorOptions {
  std::optional<DType> dtype = {};    // absent: what each function says
  std::optional<Device> device = {};  // absent: the context's, or that of the tensor it is like
  bool requires_grad = false;
};

// Numbers in nested braces, as `tensor` takes them.
class NestedList {
 public:
  template <class T>
  requires std::is_arithmetic_v<T> NestedList(T value) : NestedList(Scalar(value)) {}
  NestedList(Scalar value) : values_{value}, dtype_(value.dtype()) {}
  // All rows have one shape.
  NestedList(std::initializer_list<NestedList> rows);

  const Shape& shape() const { return shape_; }
  const std::vector<Scalar>& values() const { return values_; }  // row-major
  DType dtype() const { return dtype_; }                         // bool, i64 or f64

 private:
  std::vector<Scalar> values_;
  Shape shape_;
  DType dtype_;
};

// tensor({{1.0, 2.0}, {3.0, 4.0}}), tensor({1, 2, 3}), tensor(3.0): f32 where a number is floating,
// else i64, or bool where all are.
Tensor tensor(const NestedList& values, TensorOptions options = {});
namespace internal {
Tensor tensor_of(std::span<const double> values, TensorOptions options);
Tensor tensor_of(std::span<const int64_t> values, TensorOptions options);
}  // namespace internal

// One dimension, of the same dtypes.
template <class T>
requires std::is_arithmetic_v<T> Tensor tensor(const std::vector<T>& values,
                                               TensorOptions options = {}) {
  using Wide = std::conditional_t<std::is_floating_point_v<T>, double, int64_t>;
  if (std::is_same_v<T, bool> && !options.dtype) options.dtype = DType::boolean;
  const std::vector<Wide> wide(values.begin(), values.end());
  return internal::tensor_of(std::span<const Wide>(wide), options);
}

// Of f32 unless the options say otherwise; `empty` is not initialised.
Tensor empty(const Shape& shape, TensorOptions options = {});
Tensor zeros(const Shape& shape, TensorOptions options = {});
Tensor ones(const Shape& shape, TensorOptions options = {});
// Rows and columns, as many columns as rows where not given.
Tensor eye(int64_t rows, TensorOptions options = {});
Tensor eye(int64_t rows, int64_t columns, TensorOptions options = {});
// Of the value's own dtype: bool, i64 or f32.
Tensor full(const Shape& shape, Scalar value, TensorOptions options = {});
// start, start + step, … below end (above it, where the step is negative): i64, or f32 where one of
// the three is floating.
Tensor arange(Scalar end, TensorOptions options = {});
Tensor arange(Scalar start, Scalar end, Scalar step = 1, TensorOptions options = {});
// `steps` values from start to end, both included; f32.
Tensor linspace(Scalar start, Scalar end, int64_t steps, TensorOptions options = {});

// Random numbers are functions of the context's random key (context().random) and of the element's
// place; each call takes the key's next operation. `manual_seed` starts the key anew.
void manual_seed(uint64_t seed);
// U[0, 1) and N(0, 1); f32.
Tensor rand(const Shape& shape, TensorOptions options = {});
Tensor randn(const Shape& shape, TensorOptions options = {});
// Integers of [low, high); i64.
Tensor randint(int64_t high, const Shape& shape, TensorOptions options = {});
Tensor randint(int64_t low, int64_t high, const Shape& shape, TensorOptions options = {});

// With x's shape, and its dtype and device unless the options say otherwise.
Tensor empty_like(const Tensor& x, TensorOptions options = {});
Tensor zeros_like(const Tensor& x, TensorOptions options = {});
Tensor ones_like(const Tensor& x, TensorOptions options = {});
Tensor full_like(const Tensor& x, Scalar value, TensorOptions options = {});
Tensor rand_like(const Tensor& x, TensorOptions options = {});
Tensor randn_like(const Tensor& x, TensorOptions options = {});
Tensor randint_like(const Tensor& x, int64_t low, int64_t high, TensorOptions options = {});

}  // namespace lockstep
