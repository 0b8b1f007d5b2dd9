#include <gtest/gtest.h>

#include <limits>

#include "support/device_layouts.h"

namespace lockstep {
namespace {

using test::device_kernels;
using test::host_kernels;
using test::on_device;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

void check_sort(const Array& x, int64_t k) {
  for (bool descending : {false, true}) {
    const Array index = Array::zeros({x.dim(0), k}, DType::i64), on = on_device(index);
    device_kernels().sort(on_device(x).view(), descending, on.view());
    host_kernels().sort(x.view(), descending, index.view());
    test::expect_same(on, index);
  }
}

// Many equal values, which keep their order.
TEST(CudaSort, EveryDtype) {
  for (DType dtype : test::kDTypes) {
    for (const Shape& shape : {Shape{1, 1}, Shape{1, 3000}, Shape{7, 33}, Shape{300, 5}}) {
      const Array x = test::whole(shape, dtype);
      check_sort(x, shape[1]);
      check_sort(x, (shape[1] + 1) / 2);
    }
    check_sort(test::whole({0, 4}, dtype), 4);
    check_sort(test::whole({3, 4}, dtype), 0);
  }
}

TEST(CudaSort, DistinctValues) {
  for (DType dtype : test::kFloats) check_sort(test::values({3, 1000}, dtype, -100, 100), 1000);
  check_sort(test::values({3, 1000}, DType::i64, -9e18, 9e18), 1000);
  check_sort(test::values({3, 1000}, DType::i32, -2e9, 2e9), 1000);
}

TEST(CudaSort, NaNInfinityAndZeros) {
  const Array doubles = Array::from<double>(
      {1, kNaN, -0.0, kInfinity, 0, -kInfinity, -kNaN, -1, 0, -0.0, kInfinity, 1e-7, -1e-7, 2},
      {2, 7});
  for (DType dtype : test::kFloats) {
    const Array x = Array::zeros({2, 7}, dtype);
    host_kernels().copy(doubles.view(), x.view());
    check_sort(x, 7);
    check_sort(x, 3);
  }
}

void check_nonzero(const Array& mask) {
  const Array on_mask = on_device(mask);
  const int64_t expected = host_kernels().nonzero(mask.view(), View());
  EXPECT_EQ(device_kernels().nonzero(on_mask.view(), View()), expected);
  for (int64_t room : {expected, expected / 2, expected + 3}) {
    const Array places = Array::full({room}, -1, DType::i64), on = on_device(places);
    EXPECT_EQ(device_kernels().nonzero(on_mask.view(), on.view()), expected);
    host_kernels().nonzero(mask.view(), places.view());
    test::expect_same(on, places);
  }
}

TEST(CudaSort, Nonzero) {
  for (int64_t count : {0, 1, 31, 1000, 70000}) {
    const Array numbers = test::values({count}, DType::f64, -1, 1);
    const Array mask = Array::zeros({count}, DType::boolean);
    // Truncated, all are 0 but those from 1 on.
    for (double scale : {1.2, 3.0}) {
      const Array scaled = Array::zeros({count}, DType::f64);
      host_kernels().scale_add(scale, numbers.view(), 0, scaled.view());
      const Array truncated = Array::zeros({count}, DType::i32);
      host_kernels().copy(scaled.view(), truncated.view());
      host_kernels().copy(truncated.view(), mask.view());
      check_nonzero(mask);
    }
  }
}

}  // namespace
}  // namespace lockstep
