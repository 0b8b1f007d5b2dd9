#include <gtest/gtest.h>

#include <limits>

#include "support/device_layouts.h"

namespace lockstep {
namespace {

using test::device_kernels;
using test::host_kernels;
using test::on_device;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr RandomKey kKey{.seed = 0x123456789abcdef, .step = 7, .operation = 3, .first_sample = 11};

void check_dropout(const Array& x, double p, const Array& y, double beta, double relative) {
  const Array on = on_device(y);
  device_kernels().dropout(on_device(x).view(), p, kKey, on.view(), beta);
  host_kernels().dropout(x.view(), p, kKey, y.view(), beta);
  test::expect_near(on, y, relative);
}

const Shape kShapes[] = {{}, {1}, {5}, {3, 8}, {3, 24}, {4, 3, 5}, {2, 1000}, {700, 3}, {0, 4}};

TEST(CudaRandom, DropoutHasTheBitsOfTheCpu) {
  for (DType dtype : test::kFloats) {
    for (const Shape& shape : kShapes) {
      for (double p : {0.0, 0.3, 1.0}) {
        check_dropout(test::values(shape, dtype, -1, 1), p, Array::full(shape, kNaN, dtype), 0, 0);
      }
    }
    const Array x = test::laid(test::values({6, 16}, dtype, -1, 1), test::Layout::off_by_one);
    check_dropout(x, 0.5, Array::zeros({6, 16}, dtype), 0, 0);
  }
}

TEST(CudaRandom, DropoutAdds) {
  for (DType dtype : test::kFloats) {
    for (const Shape& shape : kShapes) {
      for (double p : {0.3, 1.0}) {
        check_dropout(test::values(shape, dtype, -1, 1), p, test::values(shape, dtype, -1, 1, 2),
                      0.5, test::tolerance(dtype));
      }
    }
  }
}

// What is dropped does not count, be it NaN.
TEST(CudaRandom, DropoutOfNaN) {
  check_dropout(Array::full({4, 16}, kNaN, DType::f32), 0.5, Array::zeros({4, 16}, DType::f32), 0,
                0);
}

constexpr uint64_t kFirsts[] = {0, 1, 510, 511, (uint64_t{1} << 33) - 3};

TEST(CudaRandom, UniformHasTheBitsOfTheCpu) {
  for (DType dtype : test::kFloats) {
    for (int64_t count : {0, 1, 2, 7, 1025}) {
      for (uint64_t first : kFirsts) {
        const Array y = Array::zeros({count}, dtype), on = on_device(y);
        device_kernels().uniform(on.view(), -0.7, 1.3, kKey, first);
        host_kernels().uniform(y.view(), -0.7, 1.3, kKey, first);
        test::expect_same(on, y);
      }
    }
  }
}

TEST(CudaRandom, UniformValuesStayBelowTheUpperEnd) {
  const double ranges[][2] = {{0, 1}, {-1, 3}, {-3, -1}, {0.5, 0.7}, {-0x1p-10, 0}};
  for (DType dtype : test::kFloats) {
    for (const auto& range : ranges) {
      const Array y = Array::zeros({20'000}, dtype), on = on_device(y);
      device_kernels().uniform(on.view(), range[0], range[1], kKey, 0);
      host_kernels().uniform(y.view(), range[0], range[1], kKey, 0);
      test::expect_same(on, y);
      for (double value : test::on_host(on).to_vector<double>()) ASSERT_LT(value, range[1]);
    }
  }
}

TEST(CudaRandom, Normal) {
  for (DType dtype : test::kFloats) {
    for (int64_t count : {0, 1, 2, 7, 1025}) {
      for (uint64_t first : kFirsts) {
        const Array y = Array::zeros({count}, dtype), on = on_device(y);
        device_kernels().normal(on.view(), 0.5, 2, kKey, first);
        host_kernels().normal(y.view(), 0.5, 2, kKey, first);
        test::expect_near(on, y, test::tolerance(dtype, 8));
      }
    }
  }
}

}  // namespace
}  // namespace lockstep
