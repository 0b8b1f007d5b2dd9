#include "unit/cuda/row_cases.h"

namespace lockstep {
namespace {

using test::on_device_if;
using test::RowCase;
using test::view_of;

constexpr double kEpsilon = 1e-5;

struct Statistics {
  Array mean, inverse;
};

// By how much rounding may have been multiplied.
double largest(const Array& inverse) {
  double result = 1;
  for (double value : inverse.to_vector<double>()) result = std::max(result, value);
  return result;
}

// Both norms, forward; returns the CPU's statistics. Without `centered`: RMS normalization.
Statistics check_forward(const Array& x, const Array& weight, const Array& bias, bool centered,
                         int64_t y_offset = 0) {
  const DType statistics = test::statistics_of(x.dtype());
  const Array y = test::before(x.shape(), x.dtype(), 0, 2, y_offset);
  const Array mean = test::before({x.dim(0)}, statistics, 0, 3);
  const Array inverse = test::before({x.dim(0)}, statistics, 0, 3);
  const Array x_on = test::on_device(x), y_on = test::on_device(y);
  const Array weight_on = on_device_if(weight), bias_on = on_device_if(bias);
  const Array mean_on = test::on_device(mean), inverse_on = test::on_device(inverse);
  if (centered) {
    test::device_kernels().layer_norm(x_on.view(), {}, view_of(weight_on), view_of(bias_on),
                                      kEpsilon, y_on.view(), mean_on.view(), inverse_on.view());
    test::host_kernels().layer_norm(x.view(), {}, view_of(weight), view_of(bias), kEpsilon,
                                    y.view(), mean.view(), inverse.view());
    test::expect_near(mean_on, mean, test::tolerance(statistics, 4));
  } else {
    test::device_kernels().rms_norm(x_on.view(), view_of(weight_on), kEpsilon, y_on.view(),
                                    inverse_on.view());
    test::host_kernels().rms_norm(x.view(), view_of(weight), kEpsilon, y.view(), inverse.view());
  }
  test::expect_near(inverse_on, inverse, test::tolerance(statistics, 8));
  test::expect_near(y_on, y, test::tolerance(x.dtype(), 16), largest(inverse));
  return {centered ? mean : Array(), inverse};
}

struct Wanted {
  bool dx = true, dweight = true, dbias = true;
  DType dweight_dtype = DType::f32, dbias_dtype = DType::f32;
  double beta[3] = {0, 0, 0};
  int64_t dx_offset = 0;
};

void check_backward(const Array& dy, const Array& x, const Array& weight, const Statistics& of,
                    const Wanted& wanted) {
  const Shape width{x.dim(1)};
  const Array dx =
      wanted.dx ? test::before(x.shape(), x.dtype(), wanted.beta[0], 5, wanted.dx_offset) : Array();
  const Array dweight =
      wanted.dweight ? test::before(width, wanted.dweight_dtype, wanted.beta[1], 6) : Array();
  const Array dbias =
      wanted.dbias ? test::before(width, wanted.dbias_dtype, wanted.beta[2], 7) : Array();
  const Array dx_on = on_device_if(dx), dweight_on = on_device_if(dweight),
              dbias_on = on_device_if(dbias);
  const Array dy_on = test::on_device(dy), x_on = test::on_device(x),
              weight_on = on_device_if(weight);
  const Array mean_on = on_device_if(of.mean), inverse_on = test::on_device(of.inverse);
  if (of.mean) {
    test::device_kernels().layer_norm_backward(
        dy_on.view(), x_on.view(), view_of(weight_on), mean_on.view(), inverse_on.view(), {},
        view_of(dx_on), view_of(dweight_on), view_of(dbias_on), wanted.beta);
    test::host_kernels().layer_norm_backward(dy.view(), x.view(), view_of(weight), of.mean.view(),
                                             of.inverse.view(), {}, view_of(dx), view_of(dweight),
                                             view_of(dbias), wanted.beta);
  } else {
    test::device_kernels().rms_norm_backward(dy_on.view(), x_on.view(), view_of(weight_on),
                                             inverse_on.view(), view_of(dx_on), view_of(dweight_on),
                                             wanted.beta);
    test::host_kernels().rms_norm_backward(dy.view(), x.view(), view_of(weight), of.inverse.view(),
                                           view_of(dx), view_of(dweight), wanted.beta);
  }
  const double scale = std::sqrt(static_cast<double>(x.dim(0)) + 1);
  if (dx) {
    test::expect_near(dx_on, dx, test::tolerance(dx.dtype(), 16), largest(of.inverse));
  }
  // Of 16-bit parameters the sums are the statistics' too, rounded once.
  if (dweight) {
    const double bound =
        test::tolerance(dweight.dtype()) + test::tolerance(test::statistics_of(x.dtype()), 16);
    test::expect_near(dweight_on, dweight, bound, scale);
  }
  if (dbias && of.mean) {
    const double bound =
        test::tolerance(dbias.dtype()) + test::tolerance(test::statistics_of(x.dtype()), 16);
    test::expect_near(dbias_on, dbias, bound, scale);
  }
}

TEST(CudaLayerNorm, EveryWidthAndDtype) {
  for (DType dtype : test::kFloats) {
    for (const RowCase& rows : test::kRowCases) {
      for (bool centered : {true, false}) {
        SCOPED_TRACE(::testing::Message()
                     << name_of(dtype) << " width " << rows.width << " centered " << centered);
        const Shape shape{rows.rows, rows.width}, width{rows.width};
        const Array x = test::offset_values(shape, dtype, -2, 3, 1, rows.offset);
        const DType parameters = rows.rows == 2 ? test::statistics_of(dtype) : dtype;
        const Array weight = test::values(width, parameters, 0.5, 2, 2);
        const Array bias = test::values(width, parameters, -1, 1, 3);
        const Statistics statistics = check_forward(x, weight, bias, centered, rows.offset);
        const Array dy = test::offset_values(shape, dtype, -1, 1, 4, rows.offset);
        check_backward(
            dy, x, weight, statistics,
            {.dweight_dtype = parameters, .dbias_dtype = parameters, .dx_offset = rows.offset});
      }
    }
  }
}

TEST(CudaLayerNorm, ParametersOfOtherDtypes) {
  for (DType dtype : test::kFloats) {
    for (DType parameters : test::kFloats) {
      for (int64_t width : {24, 1111, 8208}) {
        SCOPED_TRACE(::testing::Message() << name_of(dtype) << " and " << name_of(parameters));
        const Array x = test::values({2, width}, dtype, -2, 3, 1);
        const Array weight = test::offset_values({width}, parameters, 0.5, 2, 2, width % 2);
        const Array bias = test::values({width}, parameters, -1, 1, 3);
        const Statistics statistics = check_forward(x, weight, bias, true);
        check_backward(test::values({2, width}, dtype, -1, 1, 4), x, weight, statistics,
                       {.dweight_dtype = parameters, .dbias_dtype = DType::bf16});
      }
    }
  }
}

TEST(CudaLayerNorm, AbsentParametersAndGradientsNotWanted) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    for (int64_t width : {24, 600, 8208}) {
      for (bool centered : {true, false}) {
        const Array x = test::values({5, width}, dtype, -2, 3, 1);
        const Array weight = test::values({width}, DType::f32, 0.5, 2, 2);
        const Array bias = test::values({width}, DType::f32, -1, 1, 3);
        check_forward(x, weight, Array(), centered);
        check_forward(x, Array(), bias, centered);
        const Statistics statistics = check_forward(x, Array(), Array(), centered, 1);
        const Array dy = test::values({5, width}, dtype, -1, 1, 4);
        for (int wanted = 0; wanted < 8; ++wanted) {
          const bool dbias = centered && (wanted & 4) != 0;
          check_backward(dy, x, wanted % 3 == 0 ? weight : Array(), statistics,
                         {.dx = (wanted & 1) != 0, .dweight = (wanted & 2) != 0, .dbias = dbias});
        }
      }
    }
  }
}

TEST(CudaLayerNorm, EachGradientHasItsBeta) {
  for (DType dtype : test::kFloats) {
    for (int64_t width : {24, 600, 8208}) {
      for (bool centered : {true, false}) {
        const Array x = test::values({3, width}, dtype, -2, 3, 1);
        const Array weight = test::values({width}, dtype, 0.5, 2, 2);
        const Statistics statistics = check_forward(x, weight, Array(), centered);
        const Array dy = test::offset_values({3, width}, dtype, -1, 1, 4, 1);
        Wanted wanted{.dweight_dtype = dtype, .dbias_dtype = DType::f32};
        for (const auto& betas : {std::array{0.0, 1.0, -0.5}, {1.0, -0.5, 0.0}, {-0.5, 0.0, 1.0}}) {
          std::copy(betas.begin(), betas.end(), wanted.beta);
          check_backward(dy, x, weight, statistics, wanted);
        }
      }
    }
  }
}

TEST(CudaLayerNorm, ParameterGradientsOfManyRows) {
  for (DType dtype : {DType::f32, DType::bf16, DType::f64}) {
    for (const RowCase& rows :
         {RowCase{300, 24, 0}, RowCase{43, 264, 0}, RowCase{30, 520, 0}, RowCase{90, 8208, 0}}) {
      const Array x = test::values({rows.rows, rows.width}, dtype, -2, 3, 1);
      const Array weight = test::values({rows.width}, dtype, 0.5, 2, 2);
      const DType statistics = test::statistics_of(dtype);
      const Statistics of = {test::values({rows.rows}, statistics, 0, 1, 3),
                             test::values({rows.rows}, statistics, 0.5, 1, 4)};
      const Array dy = test::values({rows.rows, rows.width}, dtype, -1, 1, 5);
      check_backward(dy, x, weight, of, {.dx = rows.width < 1000, .dweight_dtype = statistics});
    }
  }
}

// Where the deviation is small beside the mean, the variance must come from the deviations.
TEST(CudaLayerNorm, RowsFarFromZeroAreAsAccurateAsTheCpus) {
  for (int64_t width : {100, 768, 5000, 9000}) {
    const Array x = test::values({3, width}, DType::f32, 4000, 4001, 1);
    const Array exact = Array::empty(x.shape(), DType::f64);
    test::host_kernels().copy(x.view(), exact.view());
    const Array y = Array::empty(x.shape(), DType::f64);
    const Array mean = Array::empty({3}, DType::f64), inverse = Array::empty({3}, DType::f64);
    test::host_kernels().layer_norm(exact.view(), {}, View(), View(), kEpsilon, y.view(),
                                    mean.view(), inverse.view());
    const Array x_on = test::on_device(x),
                y_on = test::on_device(Array::empty(x.shape(), DType::f32));
    const Array mean_on = test::on_device(Array::empty({3}, DType::f32));
    const Array inverse_on = test::on_device(Array::empty({3}, DType::f32));
    test::device_kernels().layer_norm(x_on.view(), {}, View(), View(), kEpsilon, y_on.view(),
                                      mean_on.view(), inverse_on.view());
    test::expect_near(mean_on, mean, test::tolerance(DType::f32, 0.51));
    test::expect_near(inverse_on, inverse, test::tolerance(DType::f32, 8));
    // Half a unit of 4000 beside a deviation of 0.29.
    test::expect_near(y_on, y, 1e-3);
  }
}

TEST(CudaLayerNorm, ConstantRowsAndNan) {
  for (int64_t width : {40, 1500, 8300}) {
    const Array x = test::values({4, width}, DType::f32, -1, 1, 1);
    test::host_kernels().fill(x.narrow(0, 0, 1).view(), 0.1);
    test::host_kernels().fill(x.narrow(0, 2, 1).narrow(1, 7, 1).view(), std::nan(""));
    test::host_kernels().fill(x.narrow(0, 3, 1).narrow(1, 9, 1).view(), INFINITY);
    for (bool centered : {true, false}) {
      const Statistics statistics = check_forward(x, Array(), Array(), centered);
      check_backward(test::values({4, width}, DType::f32, -1, 1, 2), x, Array(), statistics, {});
    }
  }
}

TEST(CudaLayerNorm, GradientOverTheUpstreamOne) {
  for (int64_t width : {40, 1500, 8300}) {
    const Array x = test::values({5, width}, DType::f32, -2, 3, 1);
    const Array dy = test::values({5, width}, DType::f32, -1, 1, 2);
    const Statistics of = check_forward(x, Array(), Array(), true);
    const double betas[3] = {0, 0, 0};
    const Array dx = Array::empty(x.shape(), DType::f32);
    const Array dweight = Array::empty({width}, DType::f32),
                dbias = Array::empty({width}, DType::f32);
    test::host_kernels().layer_norm_backward(dy.view(), x.view(), View(), of.mean.view(),
                                             of.inverse.view(), {}, dx.view(), dweight.view(),
                                             dbias.view(), betas);
    const Array dy_on = test::on_device(dy), dweight_on = test::on_device(dweight);
    const Array dbias_on = test::on_device(dbias), x_on = test::on_device(x);
    const Array mean_on = test::on_device(of.mean), inverse_on = test::on_device(of.inverse);
    test::device_kernels().layer_norm_backward(dy_on.view(), x_on.view(), View(), mean_on.view(),
                                               inverse_on.view(), {}, dy_on.view(),
                                               dweight_on.view(), dbias_on.view(), betas);
    test::expect_near(dy_on, dx, test::tolerance(DType::f32, 16));
    test::expect_near(dweight_on, dweight, test::tolerance(DType::f32, 16), 3);
    test::expect_near(dbias_on, dbias, test::tolerance(DType::f32, 16), 3);
  }
}

// The upstream gradient is rounded to x's dtype first.
TEST(CudaLayerNorm, UpstreamGradientOfAnotherDtype) {
  const Array x = test::values({5, 40}, DType::bf16, -2, 3, 1);
  const Array dy = test::values({5, 40}, DType::bf16, -1, 1, 2);
  const Array single = Array::empty(dy.shape(), DType::f32);
  test::host_kernels().copy(dy.view(), single.view());
  check_backward(single, x, Array(), check_forward(x, Array(), Array(), true), {});
}

TEST(CudaLayerNorm, NoRows) {
  const Array x = Array::empty({0, 7}, DType::f32), none = Array::empty({0}, DType::f32);
  const Array weight = test::values({7}, DType::f32, 0, 1);
  check_forward(x, weight, weight, true);
  check_backward(x, x, weight, {none, none}, {.beta = {0, 0, 1}});
  check_backward(x, x, weight, {Array(), none}, {.beta = {0, 0.5, 0}});
}

}  // namespace
}  // namespace lockstep
