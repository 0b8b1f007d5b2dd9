#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "lockstep/runtime/array.h"
#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/kernels.h"

// Tests that hold a device's kernels against the CPU's on the same values. The device is what
// the program was given: a GPU, or the simulated one.
namespace lockstep::test {

inline Device device() { return {DeviceKind::cuda, 0}; }
inline Kernels& device_kernels() { return backend_of(device()).kernels(); }
inline Kernels& host_kernels() { return backend_of({}).kernels(); }

// The same window (shape, strides, offset) on a copy of the whole storage on the other device.
inline Array moved(const Array& from, Device to) {
  const size_t bytes = from.storage()->bytes();
  Ref<Storage> storage = Storage::allocate(to, bytes);
  if (from.device().kind == DeviceKind::cpu) {
    backend_of(to).copy_from_host(storage->data(), from.storage()->data(), bytes);
  } else {
    backend_of(from.device()).copy_to_host(storage->data(), from.storage()->data(), bytes);
  }
  return {storage, from.dtype(), from.shape(), from.strides(), from.offset()};
}
inline Array on_device(const Array& host) { return moved(host, device()); }
inline Array on_host(const Array& array) { return moved(array, {}); }

// Values in [low, high) of any dtype, reproducible, in row-major order.
inline Array values(Shape shape, DType dtype, double low, double high, uint64_t seed = 1) {
  std::vector<double> numbers(static_cast<size_t>(shape.elements()));
  uint64_t state = seed * 0x9E3779B97F4A7C15u + 1;
  for (double& number : numbers) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    number = low + (high - low) * static_cast<double>(state >> 11) * 0x1p-53;
  }
  const Array doubles = Array::from(numbers, shape);
  Array result = Array::empty(shape, dtype);
  host_kernels().copy(doubles.view(), result.view());
  return result;
}

// The relative error that rounding alone may leave: of the dtype, times `factor`.
inline double tolerance(DType dtype, double factor = 4) {
  switch (dtype) {
    case DType::f64: return factor * 0x1p-52;
    case DType::f32: return factor * 0x1p-23;
    case DType::bf16: return factor * 0x1p-8;
    case DType::f16: return factor * 0x1p-10;
    default: return 0;
  }
}

// |device - host| <= relative * max(|host|, scale) for every element; NaN and infinity are equal to
// themselves. `device` lies on the device, `host` on the CPU.
inline void expect_near(const Array& device, const Array& host, double relative, double scale = 1) {
  ASSERT_EQ(device.shape(), host.shape());
  const std::vector<double> got = on_host(device).to_vector<double>();
  const std::vector<double> expected = host.to_vector<double>();
  int wrong = 0;
  for (size_t i = 0; i < got.size() && wrong < 3; ++i) {
    if (std::isnan(got[i]) && std::isnan(expected[i])) continue;
    if (got[i] == expected[i]) continue;
    const double bound = relative * std::max(std::abs(expected[i]), scale);
    if (std::abs(got[i] - expected[i]) <= bound) continue;
    ++wrong;
    ADD_FAILURE() << "element " << i << " of " << got.size() << ": " << got[i] << ", expected "
                  << expected[i] << " within " << bound << " (" << name_of(host.dtype()) << ")";
  }
}

}  // namespace lockstep::test
