#pragma once

#include <vector>

#include "support/device_check.h"

// Arrays for the tests of devices, as windows of memory that lies in different ways.
namespace lockstep::test {

inline constexpr DType kFloats[] = {DType::f64, DType::f32, DType::bf16, DType::f16};
inline constexpr DType kDTypes[] = {DType::f64, DType::f32, DType::bf16, DType::f16,
                                    DType::i64, DType::i32, DType::u8,   DType::boolean};

// Off by one: dense, but no pack begins on a 16-byte boundary.
enum class Layout { dense, transposed, sliced, off_by_one };
inline constexpr Layout kLayouts[] = {Layout::dense, Layout::transposed, Layout::sliced,
                                      Layout::off_by_one};

// The values of `dense` in another layout.
inline Array laid(const Array& dense, Layout layout) {
  Shape memory = dense.shape();
  const int last = dense.rank() - 1;
  Array window = dense;
  switch (layout) {
    case Layout::dense: return dense;
    case Layout::transposed:
      std::swap(memory[0], memory[last]);
      window = Array::zeros(memory, dense.dtype()).transpose(0, last);
      break;
    case Layout::sliced:
      memory[last] = 2 * memory[last] + 1;
      window = Array::zeros(memory, dense.dtype()).narrow(last, 1, dense.dim(last), 2);
      break;
    case Layout::off_by_one:
      window = Array::zeros({dense.elements() + 1}, dense.dtype())
                   .narrow(0, 1, dense.elements())
                   .try_view(dense.shape());
      break;
  }
  host_kernels().copy(dense.view(), window.view());
  return window;
}

// Small whole numbers, whose sums are exact in every dtype that is computed in f32.
inline Array whole(Shape shape, DType dtype, uint64_t seed = 1) {
  const bool is_signed = is_floating(dtype) || size_of(dtype) > 1;
  const Array numbers = values(shape, DType::i64, is_signed ? -9 : 0, 9, seed);
  Array result = Array::empty(shape, dtype);
  host_kernels().copy(numbers.view(), result.view());
  return result;
}

// Numbers in [0, count).
inline Array places(Shape shape, int64_t count, uint64_t seed = 3) {
  return values(shape, DType::i64, 0, static_cast<double>(count), seed);
}

// The same values, bit for bit but for those of NaN.
inline void expect_same(const Array& device, const Array& host) { expect_near(device, host, 0); }

}  // namespace lockstep::test
