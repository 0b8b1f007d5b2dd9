#include "lockstep/autograd/ops/creation.h"

#include <algorithm>
#include <cmath>

#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/promotion.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep {
namespace {

constexpr DType kDefault = DType::f32;

// The dtype of a tensor made of numbers.
DType own_dtype(DType of_numbers) { return is_floating(of_numbers) ? kDefault : of_numbers; }

Device device_of(const TensorOptions& options) { return options.device.value_or(context().device); }

Tensor finish(const Array& values, DType dtype, const TensorOptions& options) {
  Array result = kernels::cast(values, options.dtype.value_or(dtype));
  return options.requires_grad ? Tensor::variable(std::move(result)) : Tensor(std::move(result));
}

template <class T>
Tensor from(const std::vector<T>& values, const Shape& shape, DType dtype,
            const TensorOptions& options) {
  return finish(Array::from(values, shape, device_of(options)), dtype, options);
}

TensorOptions like(const char* name, const Tensor& x, TensorOptions options) {
  LOCKSTEP_CHECK(x, name, ": an empty tensor, expected one with values");
  if (!options.dtype) options.dtype = x.dtype();
  if (!options.device) options.device = x.device();
  return options;
}

// A step that divides [start, end) into this many.
int64_t count_of(Scalar start, Scalar end, Scalar step) {
  const double size = (end.to_double() - start.to_double()) / step.to_double();
  LOCKSTEP_CHECK(step.to_double() != 0 && std::isfinite(size) && size >= 0 && size < 0x1p40,
                 "arange: from ", start.to_double(), " to ", end.to_double(), " by ",
                 step.to_double(), ", expected a step that leads from one to the other");
  return static_cast<int64_t>(std::ceil(size));
}

RandomKey next_key() {
  const RandomKey key = context().random;
  ++context().random.operation;
  return key;
}

Array floating_room(const char* name, const Shape& shape, const TensorOptions& options) {
  const DType dtype = options.dtype.value_or(kDefault);
  LOCKSTEP_CHECK(is_floating(dtype), name, ": dtype ", dtype, ", expected a floating one");
  return Array::empty(shape, dtype, device_of(options));
}

}  // namespace

NestedList::NestedList(std::initializer_list<NestedList> rows)
    : dtype_(rows.size() == 0 ? DType::f64 : DType::boolean) {
  if (rows.size() > 0) shape_ = rows.begin()->shape_;
  for (const NestedList& row : rows) {
    LOCKSTEP_CHECK(row.shape_ == shape_, "tensor: rows of shapes ", shape_, " and ", row.shape_,
                   ", expected one shape");
    values_.insert(values_.end(), row.values_.begin(), row.values_.end());
    dtype_ = promote_types(dtype_, row.dtype_);
  }
  shape_.insert(0, static_cast<int64_t>(rows.size()));
}

Tensor tensor(const NestedList& values, TensorOptions options) {
  if (!is_floating(values.dtype())) {
    std::vector<int64_t> integers;
    for (const Scalar& value : values.values()) integers.push_back(value.to_integer());
    return from(integers, values.shape(), values.dtype(), options);
  }
  std::vector<double> numbers;
  for (const Scalar& value : values.values()) numbers.push_back(value.to_double());
  return from(numbers, values.shape(), kDefault, options);
}

Tensor internal::tensor_of(std::span<const double> values, TensorOptions options) {
  return finish(Array::from(values, {static_cast<int64_t>(values.size())}, device_of(options)),
                kDefault, options);
}

Tensor internal::tensor_of(std::span<const int64_t> values, TensorOptions options) {
  return finish(Array::from(values, {static_cast<int64_t>(values.size())}, device_of(options)),
                DType::i64, options);
}

Tensor empty(const Shape& shape, TensorOptions options) {
  const DType dtype = options.dtype.value_or(kDefault);
  return finish(Array::empty(shape, dtype, device_of(options)), dtype, options);
}

Tensor zeros(const Shape& shape, TensorOptions options) { return full(shape, 0.0, options); }

Tensor ones(const Shape& shape, TensorOptions options) { return full(shape, 1.0, options); }

Tensor eye(int64_t rows, TensorOptions options) { return eye(rows, rows, options); }

Tensor eye(int64_t rows, int64_t columns, TensorOptions options) {
  LOCKSTEP_CHECK(rows >= 0 && columns >= 0, "eye: ", rows, " rows and ", columns,
                 " columns, expected no negative number");
  const DType dtype = options.dtype.value_or(kDefault);
  const Array values = Array::zeros({rows, columns}, dtype, device_of(options));
  const Shape diagonal{std::min(rows, columns)};
  kernels::fill(Array(values.storage(), dtype, diagonal, {columns + 1}, 0), 1);
  return finish(values, dtype, options);
}

Tensor full(const Shape& shape, Scalar value, TensorOptions options) {
  const DType dtype = options.dtype.value_or(own_dtype(value.dtype()));
  const Array values = Array::empty(shape, dtype, device_of(options));
  kernels::copy_into(value.to_array(dtype, values.device()), values);
  return finish(values, dtype, options);
}

Tensor arange(Scalar end, TensorOptions options) { return arange(0, end, 1, options); }

Tensor arange(Scalar start, Scalar end, Scalar step, TensorOptions options) {
  const DType kind = promote_types(promote_types(start.dtype(), end.dtype()), step.dtype());
  const int64_t count = count_of(start, end, step);
  if (!is_floating(kind)) {
    std::vector<int64_t> values(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
      // Unsigned: a product may pass the largest integer where the sum does not.
      values[static_cast<size_t>(i)] =
          static_cast<int64_t>(static_cast<uint64_t>(start.to_integer()) +
                               static_cast<uint64_t>(i) * static_cast<uint64_t>(step.to_integer()));
    }
    return from(values, {count}, DType::i64, options);
  }
  std::vector<double> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    values[static_cast<size_t>(i)] = start.to_double() + static_cast<double>(i) * step.to_double();
  }
  return from(values, {count}, kDefault, options);
}

Tensor linspace(Scalar start, Scalar end, int64_t steps, TensorOptions options) {
  LOCKSTEP_CHECK(steps >= 0, "linspace: ", steps, " steps, expected no negative number");
  const double first = start.to_double(), last = end.to_double();
  const double step = steps > 1 ? (last - first) / static_cast<double>(steps - 1) : 0;
  std::vector<double> values(static_cast<size_t>(steps));
  for (int64_t i = 0; i < steps; ++i) {
    // From the nearer end, so that both are exact.
    values[static_cast<size_t>(i)] = i < (steps + 1) / 2
                                         ? first + static_cast<double>(i) * step
                                         : last - static_cast<double>(steps - 1 - i) * step;
  }
  return from(values, {steps}, kDefault, options);
}

void manual_seed(uint64_t seed) {
  context().random = {.seed = seed, .first_sample = context().random.first_sample};
}

Tensor rand(const Shape& shape, TensorOptions options) {
  const Array values = floating_room("rand", shape, options);
  kernels::of(values).uniform(values.view(), 0, 1, next_key(), 0);
  return finish(values, values.dtype(), options);
}

Tensor randn(const Shape& shape, TensorOptions options) {
  const Array values = floating_room("randn", shape, options);
  kernels::of(values).normal(values.view(), 0, 1, next_key(), 0);
  return finish(values, values.dtype(), options);
}

Tensor randint(int64_t high, const Shape& shape, TensorOptions options) {
  return randint(0, high, shape, options);
}

Tensor randint(int64_t low, int64_t high, const Shape& shape, TensorOptions options) {
  LOCKSTEP_CHECK(low < high && static_cast<double>(high) - static_cast<double>(low) <= 0x1p53,
                 "randint: from ", low, " below ", high,
                 ", expected a range of 1 to 2^53 integers");
  const Array values = Array::empty(shape, DType::f64, device_of(options));
  const double count = static_cast<double>(high) - static_cast<double>(low);
  kernels::of(values).uniform(values.view(), 0, count, next_key(), 0);
  // Converting to integers cuts the fraction off.
  const Array drawn = kernels::cast(values, DType::i64);
  const Tensor shifted = Tensor(drawn) + low;
  const Tensor result = finish(shifted.value(), DType::i64, options);
  const Storage::Extent range{low, high - 1};
  if (result.dtype() == DType::i64) result.value().storage()->set_known_extent(range, range);
  return result;
}

Tensor empty_like(const Tensor& x, TensorOptions options) {
  return empty(x.shape(), like("empty_like", x, options));
}

Tensor zeros_like(const Tensor& x, TensorOptions options) {
  return zeros(x.shape(), like("zeros_like", x, options));
}

Tensor ones_like(const Tensor& x, TensorOptions options) {
  return ones(x.shape(), like("ones_like", x, options));
}

Tensor full_like(const Tensor& x, Scalar value, TensorOptions options) {
  return full(x.shape(), value, like("full_like", x, options));
}

Tensor rand_like(const Tensor& x, TensorOptions options) {
  return rand(x.shape(), like("rand_like", x, options));
}

Tensor randn_like(const Tensor& x, TensorOptions options) {
  return randn(x.shape(), like("randn_like", x, options));
}

Tensor randint_like(const Tensor& x, int64_t low, int64_t high, TensorOptions options) {
  return randint(low, high, x.shape(), like("randint_like", x, options));
}

}  // namespace lockstep
