#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "support/device_layouts.h"

namespace lockstep {
namespace {

using test::device_kernels;
using test::host_kernels;
using test::Layout;
using test::on_device;

void expect_copied(const Array& from, const Array& to) {
  const Array device_to = on_device(to);
  host_kernels().copy(from.view(), to.view());
  device_kernels().copy(on_device(from).view(), device_to.view());
  test::expect_same(device_to, to);
}

TEST(CudaCopy, ConvertsAsTheCpuDoes) {
  for (DType from : test::kDTypes) {
    for (DType to : test::kDTypes) {
      for (const Shape& shape : {Shape{4, 16}, Shape{3, 11}, Shape{1, 1}, Shape{0, 2}}) {
        for (Layout layout : test::kLayouts) {
          const Array x = laid(test::values(shape, from, -3, 300), layout);
          expect_copied(x, Array::zeros(shape, to));
          expect_copied(x, laid(Array::zeros(shape, to), Layout::transposed));
          expect_copied(x, laid(Array::zeros(shape, to), Layout::sliced));
        }
      }
    }
  }
}

TEST(CudaCopy, WhatIntegersLackIsTheNearest) {
  const double infinity = std::numeric_limits<double>::infinity();
  const std::vector<double> numbers = {std::nan(""), infinity, -infinity, 1e30,         -1e30, 0.5,
                                       -0.5,         300,      -1,        2147483648.0, 9.3e18};
  const Array doubles = Array::from(numbers, {11});
  for (DType from : test::kFloats) {
    const Array x = Array::empty({11}, from);
    host_kernels().copy(doubles.view(), x.view());
    for (DType to : test::kDTypes) expect_copied(x, Array::zeros({11}, to));
  }
}

TEST(CudaCopy, Transposes) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::u8}) {
    for (const Shape& shape : {Shape{70, 130}, Shape{64, 64}, Shape{16, 200}, Shape{3, 5}}) {
      const Array x = test::values(shape, dtype, 0, 100);
      expect_copied(x.transpose(0, 1), Array::zeros({shape[1], shape[0]}, dtype));
      expect_copied(x, Array::zeros({shape[1], shape[0]}, dtype).transpose(0, 1));
    }
    const Array heads = test::values({2, 20, 3, 33}, dtype, 0, 100);
    for (const std::vector<int>& order :
         {std::vector{0, 2, 1, 3}, std::vector{0, 2, 3, 1}, std::vector{3, 1, 0, 2}}) {
      const Array x = heads.permute(order);
      expect_copied(x, Array::zeros(x.shape(), dtype));
    }
  }
  for (DType to : {DType::bf16, DType::f32, DType::f16, DType::f64}) {
    const Array x = test::values({40, 50}, DType::f32, 0, 100).transpose(0, 1);
    expect_copied(x, Array::zeros({50, 40}, to));
  }
}

// A window of memory that is larger: what is beside it stays.
TEST(CudaCopy, LeavesWhatIsBesideTheWindow) {
  for (DType dtype : test::kDTypes) {
    const Array memory = test::values({24, 40}, dtype, 0, 100, 2);
    const Array device_memory = on_device(memory);
    const Array x = test::values({8, 24}, dtype, 0, 100);
    for (int64_t start : {8, 3}) {
      host_kernels().copy(x.view(), memory.narrow(0, 8, 8).narrow(1, start, 24).view());
      device_kernels().copy(on_device(x).view(),
                            device_memory.narrow(0, 8, 8).narrow(1, start, 24).view());
      test::expect_same(device_memory, memory);
    }
  }
}

TEST(CudaCopy, Fills) {
  for (DType dtype : test::kDTypes) {
    for (Layout layout : test::kLayouts) {
      for (double value : {0.0, 0.5, -7.0, 3e9, std::nan("")}) {
        const Array y = laid(test::values({3, 37}, dtype, 0, 9), layout);
        const Array device_y = on_device(y);
        host_kernels().fill(y.view(), value);
        device_kernels().fill(device_y.view(), value);
        test::expect_same(device_y, y);
      }
    }
  }
}

}  // namespace
}  // namespace lockstep
