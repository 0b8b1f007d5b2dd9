#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

#include "lockstep/runtime/device.h"
#include "lockstep/runtime/dtype.h"
#include "lockstep/runtime/error.h"
#include "lockstep/runtime/ref.h"
#include "lockstep/runtime/shape.h"
#include "lockstep/runtime/storage.h"
#include "lockstep/runtime/view.h"

namespace lockstep {

// A strided window on a Storage that it keeps alive. Copying an Array copies the window, not the
// values. Knows nothing of gradients. A default-constructed Array is empty: no storage, no shape.
class Array {
 public:
  Array() = default;
  Array(Ref<Storage> storage, DType dtype, Shape shape, Shape strides, int64_t offset);

  // Row-major. `empty` is not initialised.
  static Array empty(Shape shape, DType dtype, Device device = {});
  static Array full(Shape shape, double value, DType dtype, Device device = {});
  static Array zeros(Shape shape, DType dtype, Device device = {}) {
    return full(shape, 0, dtype, device);
  }
  // Copies `values` (row-major) to the device.
  template <class T>
  static Array from(std::span<const T> values, Shape shape, Device device = {}) {
    return from_bytes(values.data(), values.size(), dtype_of<T>, shape, device);
  }
  template <class T>
  static Array from(const std::vector<T>& values, Shape shape, Device device = {}) {
    return from(std::span<const T>(values), shape, device);
  }
  static Array from_bytes(const void* values, size_t count, DType dtype, Shape shape,
                          Device device = {});
  template <class T>
  static Array from(std::initializer_list<T> values, Shape shape, Device device = {}) {
    return from(std::span<const T>(values.begin(), values.size()), shape, device);
  }

  explicit operator bool() const { return static_cast<bool>(storage_); }
  DType dtype() const { return dtype_; }
  Device device() const {
    LOCKSTEP_CHECK(storage_, "an empty array given, expected one with values");
    return storage_->device();
  }
  const Shape& shape() const { return shape_; }
  const Shape& strides() const { return strides_; }
  int64_t offset() const { return offset_; }  // elements from the storage's start
  int rank() const { return shape_.rank(); }
  // Counts from the end when negative.
  int64_t dim(int i) const { return shape_[i < 0 ? i + rank() : i]; }
  int64_t elements() const { return shape_.elements(); }
  size_t bytes() const { return static_cast<size_t>(elements()) * size_of(dtype_); }
  bool contiguous() const;
  const Ref<Storage>& storage() const { return storage_; }
  // Same storage, and the same window on it.
  bool same_window(const Array& other) const;

  // Tells the storage, which has no other values, between which these lie (Storage::known_extent).
  void know_extent(std::span<const int64_t> values) const;

  // First element. The device's own address space.
  void* data() const;
  // `data` with the dtype checked.
  template <class T>
  T* data() const {
    LOCKSTEP_CHECK(dtype_of<T> == dtype_, "data<", dtype_of<T>, "> of an array of ", dtype_);
    return static_cast<T*>(data());
  }
  View view() const;

  // Windows on the same storage; no values move. Errors name the operation and the shape.
  Array permute(std::span<const int> order) const;
  Array transpose(int a, int b) const;
  Array narrow(int dim, int64_t start, int64_t length, int64_t step = 1) const;
  Array select(int dim, int64_t index) const;
  Array unsqueeze(int dim) const;
  Array squeeze(int dim) const;
  // Stride 0 where `shape` is larger; leading dimensions may be added.
  Array expand(const Shape& shape) const;
  // One dimension may be -1. `view_as_shape` returns an empty Array where no window has that shape.
  Array reshape(const Shape& shape) const;  // copies where it must
  Array try_view(const Shape& shape) const;

  // The values in memory of the host: itself where they are, or row-major there. Waits for the
  // device.
  Array to_host() const;
  // The values on the host, converted to T, row-major. Waits for the device.
  template <class T>
  std::vector<T> to_vector() const;
  // The only element, as double.
  double item() const;

 private:
  Ref<Storage> storage_;
  Shape shape_;
  Shape strides_;
  int64_t offset_ = 0;
  DType dtype_ = DType::f32;
};

}  // namespace lockstep
