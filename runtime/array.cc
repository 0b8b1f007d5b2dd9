#include "lockstep/runtime/array.h"

#include <algorithm>
#include <limits>

#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/capture.h"
#include "lockstep/runtime/context.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep {

Array::Array(Ref<Storage> storage, DType dtype, Shape shape, Shape strides, int64_t offset)
    : storage_(std::move(storage)),
      shape_(shape),
      strides_(strides),
      offset_(offset),
      dtype_(dtype) {}

Array Array::empty(Shape shape, DType dtype, Device device) {
  for (int64_t dim : shape) {
    LOCKSTEP_CHECK(dim >= 0, "an array of shape ", shape, ": a dimension is negative");
  }
  const size_t bytes = static_cast<size_t>(shape.elements()) * size_of(dtype);
  return Array(Storage::allocate(device, bytes), dtype, shape, contiguous_strides(shape), 0);
}

Array Array::full(Shape shape, double value, DType dtype, Device device) {
  Array result = empty(shape, dtype, device);
  backend_of(device).kernels().fill(result.view(), value);
  return result;
}

Array Array::from_bytes(const void* values, size_t count, DType dtype, Shape shape, Device device) {
  LOCKSTEP_CHECK(static_cast<int64_t>(count) == shape.elements(), count,
                 " values for an array of shape ", shape);
  const bool placed = context().uploads != nullptr && device.kind != DeviceKind::cpu;
  Array result =
      placed ? context().uploads->next(shape, dtype, device) : empty(shape, dtype, device);
  backend_of(device).copy_from_host(result.data(), values, result.bytes());
  if (dtype == DType::i64 && device.kind != DeviceKind::cpu) {
    result.know_extent({static_cast<const int64_t*>(values), count});
  }
  return result;
}

void Array::know_extent(std::span<const int64_t> values) const {
  if (values.empty()) return;
  Storage::Extent extent{values[0], values[0]};
  for (int64_t value : values) {
    extent.smallest = std::min(extent.smallest, value);
    extent.largest = std::max(extent.largest, value);
  }
  using Limits = std::numeric_limits<int64_t>;
  Storage::Extent inner{Limits::max(), Limits::min()};
  for (int64_t value : values) {
    inner.smallest = std::min(inner.smallest, value > extent.smallest ? value : Limits::max());
    inner.largest = std::max(inner.largest, value < extent.largest ? value : Limits::min());
  }
  storage_->set_known_extent(extent, inner);
}

bool Array::contiguous() const {
  int64_t expected = 1;
  for (int i = rank() - 1; i >= 0; --i) {
    if (shape_[i] == 0) return true;
    if (shape_[i] != 1 && strides_[i] != expected) return false;
    expected *= shape_[i];
  }
  return true;
}

bool Array::same_window(const Array& other) const {
  return storage_ == other.storage_ && offset_ == other.offset_ && dtype_ == other.dtype_ &&
         shape_ == other.shape_ && strides_ == other.strides_;
}

void* Array::data() const {
  LOCKSTEP_CHECK(storage_, "an empty array has no data");
  void* const memory = storage_->data();
  LOCKSTEP_CHECK(storage_->attached(), "the array's memory has been released");
  return static_cast<char*>(memory) + offset_ * static_cast<int64_t>(size_of(dtype_));
}

View Array::view() const {
  View view;
  view.data = data();
  view.dtype = dtype_;
  view.rank = rank();
  std::copy(shape_.begin(), shape_.end(), view.shape);
  std::copy(strides_.begin(), strides_.end(), view.strides);
  return view;
}

Array Array::permute(std::span<const int> order) const {
  LOCKSTEP_CHECK(static_cast<int>(order.size()) == rank(), "permute: ", order.size(),
                 " dimensions for shape ", shape_);
  Array result = *this;
  unsigned seen = 0;
  for (int i = 0; i < rank(); ++i) {
    const int from = normalize_dim("permute", order[i], rank());
    LOCKSTEP_CHECK((seen & (1u << from)) == 0, "permute: dimension ", from, " named twice");
    seen |= 1u << from;
    result.shape_[i] = shape_[from];
    result.strides_[i] = strides_[from];
  }
  return result;
}

Array Array::transpose(int a, int b) const {
  a = normalize_dim("transpose", a, rank());
  b = normalize_dim("transpose", b, rank());
  Array result = *this;
  std::swap(result.shape_[a], result.shape_[b]);
  std::swap(result.strides_[a], result.strides_[b]);
  return result;
}

Array Array::narrow(int dim, int64_t start, int64_t length, int64_t step) const {
  dim = normalize_dim("narrow", dim, rank());
  const int64_t behind = start < 0 ? -1 : shape_[dim] - start;  // elements from `start` on
  LOCKSTEP_CHECK(step > 0 && length >= 0 && behind >= (length == 0 ? 0 : 1) &&
                     (length == 0 || length - 1 <= (behind - 1) / step),
                 "narrow: ", length, " elements from ", start, " with step ", step,
                 " in dimension ", dim, " of shape ", shape_);
  Array result = *this;
  result.offset_ += start * strides_[dim];
  result.shape_[dim] = length;
  result.strides_[dim] = strides_[dim] * step;
  return result;
}

Array Array::select(int dim, int64_t index) const {
  dim = normalize_dim("select", dim, rank());
  if (index < 0) index += shape_[dim];
  Array result = narrow(dim, index, 1);
  result.shape_.erase(dim);
  result.strides_.erase(dim);
  return result;
}

Array Array::unsqueeze(int dim) const {
  dim = normalize_dim("unsqueeze", dim, rank() + 1);
  Array result = *this;
  result.strides_.insert(dim, dim < rank() ? shape_[dim] * strides_[dim] : 1);
  result.shape_.insert(dim, 1);
  return result;
}

Array Array::squeeze(int dim) const {
  dim = normalize_dim("squeeze", dim, rank());
  if (shape_[dim] != 1) return *this;
  Array result = *this;
  result.shape_.erase(dim);
  result.strides_.erase(dim);
  return result;
}

Array Array::expand(const Shape& shape) const {
  const int lead = shape.rank() - rank();
  LOCKSTEP_CHECK(lead >= 0, "expand: shape ", shape_, " to ", shape);
  Array result = *this;
  result.shape_ = shape;
  result.strides_ = Shape::filled(shape.rank(), 0);
  for (int i = 0; i < rank(); ++i) {
    if (shape_[i] == shape[lead + i]) {
      result.strides_[lead + i] = strides_[i];
    } else {
      LOCKSTEP_CHECK(shape_[i] == 1, "expand: shape ", shape_, " to ", shape);
    }
  }
  return result;
}

namespace {

Shape resolve_unknown(const Shape& from, Shape to) {
  int64_t known = 1;
  int unknown = -1;
  for (int i = 0; i < to.rank(); ++i) {
    if (to[i] != -1) {
      known = saturating_product(known, to[i]);
      continue;
    }
    LOCKSTEP_CHECK(unknown < 0, "reshape: two unknown dimensions in ", to);
    unknown = i;
  }
  if (unknown >= 0) {
    LOCKSTEP_CHECK(known != 0 && from.elements() % known == 0, "reshape: shape ", from, " to ", to);
    to[unknown] = from.elements() / known;
  }
  LOCKSTEP_CHECK(to.elements() == from.elements(), "reshape: shape ", from, " to ", to);
  return to;
}

// Strides that make `to` a window on memory laid out as (from, strides); false if there are none.
// Old dimensions are gathered into runs that are dense inside; each run must be cut by itself.
bool window_strides(const Shape& from, const Shape& strides, const Shape& to, Shape* result) {
  *result = contiguous_strides(to);
  if (to.elements() == 0 || from.rank() == 0) return true;
  if (to.elements() == std::numeric_limits<int64_t>::max()) return false;  // no products of sizes
  int next = to.rank() - 1;
  int64_t inner = strides.back();
  int64_t run = 1;
  for (int i = from.rank() - 1; i >= 0; --i) {
    run *= from[i];
    const bool goes_on = i > 0 && (from[i - 1] == 1 || strides[i - 1] == run * inner);
    if (goes_on) continue;
    int64_t filled = 1;
    while (next >= 0 && (filled < run || to[next] == 1)) {
      (*result)[next] = filled * inner;
      filled *= to[next--];
    }
    if (filled != run) return false;
    if (i > 0) inner = strides[i - 1];
    run = 1;
  }
  return true;
}

}  // namespace

Array Array::try_view(const Shape& shape) const {
  const Shape target = resolve_unknown(shape_, shape);
  Shape strides;
  if (!window_strides(shape_, strides_, target, &strides)) return Array();
  return Array(storage_, dtype_, target, strides, offset_);
}

Array Array::reshape(const Shape& shape) const {
  if (Array window = try_view(shape)) return window;
  const Operation operation("reshape");
  Array copy = empty(shape_, dtype_, device());
  backend_of(device()).kernels().copy(view(), copy.view());
  return copy.try_view(shape);
}

Array Array::to_host() const {
  if (device().kind == DeviceKind::cpu) return *this;
  Backend& backend = backend_of(device());
  Array dense = *this;
  if (!contiguous()) {
    const Operation operation("copy");
    dense = empty(shape_, dtype_, device());
    backend.kernels().copy(view(), dense.view());
  }
  Array host = empty(shape_, dtype_);
  backend.copy_to_host(host.data(), dense.data(), dense.bytes());
  return host;
}

template <class T>
std::vector<T> Array::to_vector() const {
  if (device().kind != DeviceKind::cpu) return to_host().to_vector<T>();
  Array host = empty(shape_, dtype_of<T>, device());
  Backend& backend = backend_of(device());
  backend.kernels().copy(view(), host.view());
  const size_t count = static_cast<size_t>(elements());
  if constexpr (std::is_same_v<T, bool>) {
    std::vector<uint8_t> bytes(count);
    backend.copy_to_host(bytes.data(), host.data(), count);
    return std::vector<bool>(bytes.begin(), bytes.end());
  } else {
    std::vector<T> values(count);
    backend.copy_to_host(values.data(), host.data(), host.bytes());
    return values;
  }
}

template std::vector<double> Array::to_vector<double>() const;
template std::vector<float> Array::to_vector<float>() const;
template std::vector<BFloat16> Array::to_vector<BFloat16>() const;
template std::vector<Float16> Array::to_vector<Float16>() const;
template std::vector<int64_t> Array::to_vector<int64_t>() const;
template std::vector<int32_t> Array::to_vector<int32_t>() const;
template std::vector<uint8_t> Array::to_vector<uint8_t>() const;
template std::vector<bool> Array::to_vector<bool>() const;

double Array::item() const {
  LOCKSTEP_CHECK(elements() == 1, "item: the array has shape ", shape_, ", expected one element");
  return to_vector<double>()[0];
}

}  // namespace lockstep
