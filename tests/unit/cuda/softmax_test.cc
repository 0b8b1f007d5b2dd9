#include <limits>

#include "unit/cuda/row_cases.h"

namespace lockstep {
namespace {

using test::RowCase;

void check_forward(const Array& x, int64_t y_offset) {
  for (bool log : {false, true}) {
    const Array expected = test::before(x.shape(), x.dtype(), 0, 2, y_offset);
    const Array y = test::on_device(expected);
    test::device_kernels().softmax(test::on_device(x).view(), y.view(), log);
    test::host_kernels().softmax(x.view(), expected.view(), log);
    const double width = static_cast<double>(x.dim(-1));
    test::expect_near(y, expected, test::tolerance(x.dtype(), 16), log ? 1 : 1 / width);
  }
}

TEST(CudaSoftmax, EveryWidthAndDtype) {
  for (DType dtype : test::kFloats) {
    for (const RowCase& rows : test::kRowCases) {
      SCOPED_TRACE(::testing::Message() << name_of(dtype) << " width " << rows.width);
      check_forward(test::offset_values({rows.rows, rows.width}, dtype, -4, 4, 1, rows.offset),
                    rows.offset);
    }
  }
}

TEST(CudaSoftmax, InputAndOutputThatLieDifferently) {
  for (DType dtype : test::kFloats) {
    for (int64_t width : {64, 8200}) {
      check_forward(test::offset_values({2, width}, dtype, -4, 4, 1, 0), 1);
      check_forward(test::offset_values({2, width}, dtype, -4, 4, 1, 1), 0);
    }
  }
}

TEST(CudaSoftmax, InfinityAndNan) {
  const double infinity = std::numeric_limits<double>::infinity();
  const std::vector<std::vector<double>> kinds = {{-infinity},      {-infinity, 1},
                                                  {infinity, 1},    {std::nan(""), 1},
                                                  {std::nan("")},   {-infinity, std::nan("")},
                                                  {6e4, -6e4, 6e4}, {infinity, -infinity, 0}};
  for (DType dtype : test::kFloats) {
    for (int64_t width : {3, 40, 1500, 8201}) {
      std::vector<double> numbers;
      for (const auto& kind : kinds) {
        for (int64_t i = 0; i < width; ++i) {
          numbers.push_back(kind[static_cast<size_t>(i) % kind.size()]);
        }
      }
      const Array doubles = Array::from(numbers, {static_cast<int64_t>(kinds.size()), width});
      const Array x = Array::empty(doubles.shape(), dtype);
      test::host_kernels().copy(doubles.view(), x.view());
      SCOPED_TRACE(::testing::Message() << name_of(dtype) << " width " << width);
      check_forward(x, 0);
    }
  }
}

void check_backward(const Array& y, const Array& dy, int64_t dx_offset) {
  for (bool log : {false, true}) {
    for (double beta : {0.0, -0.5}) {
      const Array expected = test::before(y.shape(), y.dtype(), beta, 3, dx_offset);
      const Array dx = test::on_device(expected);
      test::device_kernels().softmax_backward(test::on_device(y).view(), test::on_device(dy).view(),
                                              dx.view(), log, beta);
      test::host_kernels().softmax_backward(y.view(), dy.view(), expected.view(), log, beta);
      test::expect_near(dx, expected, test::tolerance(y.dtype(), 64), 8);
    }
  }
}

TEST(CudaSoftmax, Backward) {
  for (DType dtype : test::kFloats) {
    for (const RowCase& rows : test::kRowCases) {
      SCOPED_TRACE(::testing::Message() << name_of(dtype) << " width " << rows.width);
      const Shape shape{rows.rows, rows.width};
      check_backward(test::offset_values(shape, dtype, -8, 0, 1, rows.offset),
                     test::offset_values(shape, dtype, -0.1, 0.1, 2, rows.offset), rows.offset);
    }
  }
}

TEST(CudaSoftmax, BackwardOfGradientsThatLieDifferentlyOrAreOfAnotherDtype) {
  for (DType dtype : test::kFloats) {
    for (int64_t width : {64, 8200}) {
      const Array y = test::offset_values({2, width}, dtype, -8, 0, 1, 0);
      check_backward(y, test::offset_values({2, width}, dtype, -0.1, 0.1, 2, 1), 0);
      check_backward(y, test::offset_values({2, width}, dtype, -0.1, 0.1, 2, 0), 1);
    }
    const Array y = test::values({3, 40}, dtype, -8, 0);
    check_backward(y, test::values({3, 40}, DType::bf16, -0.1, 0.1, 2), 0);
  }
}

TEST(CudaSoftmax, NoRows) {
  const Array x = test::on_device(Array::empty({0, 7}, DType::f32));
  test::device_kernels().softmax(x.view(), x.view(), false);
  test::device_kernels().softmax_backward(x.view(), x.view(), x.view(), false, 1);
}

}  // namespace
}  // namespace lockstep
