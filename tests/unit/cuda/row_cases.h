#pragma once

#include "support/device_check.h"

// What the tests of row-wise kernels share.
namespace lockstep::test {

inline constexpr DType kFloats[] = {DType::f64, DType::f32, DType::bf16, DType::f16};

struct RowCase {
  int64_t rows, width;
  int64_t offset;  // of the memory, in elements: odd ones leave no row on a 16-byte boundary
};

// Of each group of threads, whole packs and not; the last ones are not kept in registers.
inline constexpr RowCase kRowCases[] = {{3, 1, 0},    {9, 5, 0},    {10, 64, 0},  {5, 64, 1},
                                        {3, 257, 0},  {9, 384, 0},  {2, 768, 0},  {2, 768, 4},
                                        {2, 1000, 0}, {2, 1023, 1}, {2, 1600, 0}, {3, 2041, 0},
                                        {7, 1280, 0}, {2, 3072, 0}, {2, 6400, 0}, {2, 6401, 1},
                                        {2, 8200, 0}, {3, 8201, 3}, {1, 12300, 1}};

inline DType statistics_of(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

inline Array offset_values(Shape shape, DType dtype, double low, double high, uint64_t seed,
                           int64_t offset) {
  const int64_t elements = shape.elements();
  return values({elements + offset}, dtype, low, high, seed)
      .narrow(0, offset, elements)
      .reshape(shape);
}

// What a gradient is added to: NaN where beta 0 must ignore it.
inline Array before(Shape shape, DType dtype, double beta, uint64_t seed, int64_t offset = 0) {
  const Array result = offset_values(shape, dtype, -1, 1, seed, offset);
  if (beta == 0) host_kernels().fill(result.view(), std::nan(""));
  return result;
}

// No view where there is no array.
inline View view_of(const Array& array) { return array ? array.view() : View(); }
inline Array on_device_if(const Array& array) { return array ? on_device(array) : Array(); }

}  // namespace lockstep::test
