#include "unit/cuda/row_cases.h"

// Layer norms of sums, and beside 16-bit neighbours.
namespace lockstep {
namespace {

using test::on_device_if;
using test::RowCase;
using test::view_of;

constexpr double kEpsilon = 1e-5;

struct Dtypes {
  DType x, delta, y;
};
// Every storage that kernels are compiled for, and a delta that must be converted first.
constexpr Dtypes kDtypes[] = {
    {DType::f64, DType::f64, DType::f64},    {DType::f32, DType::f32, DType::f32},
    {DType::bf16, DType::bf16, DType::bf16}, {DType::f16, DType::f16, DType::f16},
    {DType::f32, DType::bf16, DType::bf16},  {DType::f32, DType::f16, DType::f16},
    {DType::f32, DType::bf16, DType::f32},   {DType::f32, DType::f32, DType::bf16},
    {DType::f32, DType::f32, DType::f16},    {DType::f32, DType::f16, DType::bf16}};

std::string name_of(const Dtypes& dtypes, const RowCase& rows) {
  return concat({name_of(dtypes.x), " + ", name_of(dtypes.delta), " -> ", name_of(dtypes.y),
                 " width ", std::to_string(rows.width), " offset ", std::to_string(rows.offset)});
}

double largest(const Array& inverse) {
  double result = 1;
  for (double value : inverse.to_vector<double>()) result = std::max(result, value);
  return result;
}

TEST(CudaResidualNorm, SumsAndNormsOfEveryDtype) {
  for (const Dtypes& dtypes : kDtypes) {
    for (const RowCase& rows : test::kRowCases) {
      SCOPED_TRACE(name_of(dtypes, rows));
      const Shape shape{rows.rows, rows.width}, width{rows.width};
      const DType statistics = test::statistics_of(dtypes.x);
      const Array x = test::offset_values(shape, dtypes.x, -2, 3, 1, rows.offset);
      // Of rows that begin alike, and of rows that do not.
      const Array delta =
          test::offset_values(shape, dtypes.delta, -1, 1, 2, rows.rows == 3 ? 0 : rows.offset);
      const Array weight = test::values(width, statistics, 0.5, 2, 3);
      const Array bias = test::values(width, statistics, -1, 1, 4);
      const Array sum = test::before(shape, dtypes.x, 0, 5, rows.offset);
      const Array y = test::before(shape, dtypes.y, 0, 6, rows.offset);
      const Array mean = test::before({rows.rows}, statistics, 0, 7);
      const Array inverse = test::before({rows.rows}, statistics, 0, 8);
      const Array x_on = test::on_device(x), delta_on = test::on_device(delta);
      const Array weight_on = test::on_device(weight), bias_on = test::on_device(bias);
      const Array sum_on = test::on_device(sum), y_on = test::on_device(y);
      const Array mean_on = test::on_device(mean), inverse_on = test::on_device(inverse);
      test::device_kernels().layer_norm(x_on.view(), {delta_on.view(), sum_on.view()},
                                        weight_on.view(), bias_on.view(), kEpsilon, y_on.view(),
                                        mean_on.view(), inverse_on.view());
      test::host_kernels().layer_norm(x.view(), {delta.view(), sum.view()}, weight.view(),
                                      bias.view(), kEpsilon, y.view(), mean.view(), inverse.view());
      test::expect_near(sum_on, sum, 0);
      test::expect_near(mean_on, mean, test::tolerance(statistics, 4));
      test::expect_near(inverse_on, inverse, test::tolerance(statistics, 8));
      test::expect_near(y_on, y, test::tolerance(dtypes.y, 16), largest(inverse));
    }
  }
}

struct Wanted {
  bool dx, ddelta, parameters;
  enum { absent, apart, in_place } dsum;
};
constexpr Wanted kWanted[] = {
    {true, true, true, Wanted::in_place}, {true, true, true, Wanted::apart},
    {true, false, true, Wanted::absent},  {false, true, false, Wanted::apart},
    {true, true, false, Wanted::absent},  {false, true, true, Wanted::absent}};

void check_backward(const Dtypes& dtypes, const RowCase& rows, const Wanted& wanted) {
  const Shape shape{rows.rows, rows.width}, width{rows.width};
  const DType statistics = test::statistics_of(dtypes.x);
  const Array x = test::offset_values(shape, dtypes.x, -2, 3, 1, rows.offset);
  const Array dy = test::offset_values(shape, dtypes.y, -1, 1, 2, rows.offset);
  const Array weight = test::values(width, statistics, 0.5, 2, 3);
  const Array mean = test::values({rows.rows}, statistics, 0, 1, 4);
  const Array inverse = test::values({rows.rows}, statistics, 0.5, 1, 5);
  const Array upstream = test::offset_values(shape, dtypes.x, -1, 1, 6, rows.offset);
  struct Side {
    Array dsum, dx, ddelta, dweight, dbias;
  };
  const auto make = [&](const auto& place) {
    Side side;
    if (wanted.dsum != Wanted::absent) side.dsum = place(upstream);
    if (wanted.dx) {
      side.dx = wanted.dsum == Wanted::in_place
                    ? side.dsum
                    : place(test::before(shape, dtypes.x, 0, 7, rows.offset));
    }
    if (wanted.ddelta && dtypes.delta != dtypes.x) {
      side.ddelta =
          place(test::before(shape, dtypes.delta, 0, 8, rows.rows == 3 ? 0 : rows.offset));
    }
    if (wanted.parameters) {
      side.dweight = place(test::before(width, statistics, 0, 9));
      side.dbias = place(test::before(width, statistics, 0, 10));
    }
    return side;
  };
  const auto run = [&](Kernels& kernels, const Side& side, const auto& place) {
    const Array of[] = {place(dy), place(x), place(weight), place(mean), place(inverse)};
    const double betas[3] = {0, 0, 0};
    kernels.layer_norm_backward(of[0].view(), of[1].view(), of[2].view(), of[3].view(),
                                of[4].view(), {view_of(side.dsum), view_of(side.ddelta)},
                                view_of(side.dx), view_of(side.dweight), view_of(side.dbias),
                                betas);
  };
  const auto here = [](const Array& array) { return test::moved(array, {}); };
  const Side host = make(here), device = make(test::on_device);
  run(test::host_kernels(), host, here);
  run(test::device_kernels(), device, test::on_device);
  if (host.dx) test::expect_near(device.dx, host.dx, test::tolerance(dtypes.x, 16));
  if (host.ddelta) {
    test::expect_near(device.ddelta, host.ddelta, test::tolerance(dtypes.delta, 2));
  }
  if (host.dweight) {
    const double scale = std::sqrt(static_cast<double>(rows.rows) + 1);
    test::expect_near(device.dweight, host.dweight, test::tolerance(statistics, 16), scale);
    test::expect_near(device.dbias, host.dbias, test::tolerance(statistics, 16), scale);
  }
  if (device.dx && device.ddelta) {
    const Array rounded = Array::empty(shape, dtypes.delta);
    test::host_kernels().copy(test::on_host(device.dx).view(), rounded.view());
    test::expect_near(device.ddelta, rounded, 0);
  }
}

TEST(CudaResidualNorm, GradientsOfEveryDtype) {
  for (const Dtypes& dtypes : kDtypes) {
    for (const RowCase& rows : test::kRowCases) {
      SCOPED_TRACE(name_of(dtypes, rows));
      check_backward(dtypes, rows, kWanted[0]);
    }
  }
}

TEST(CudaResidualNorm, GradientsThatAreNotWanted) {
  for (const Dtypes& dtypes : kDtypes) {
    for (const RowCase& rows : {RowCase{37, 24, 0}, RowCase{9, 601, 1}, RowCase{9, 768, 0},
                                RowCase{3, 4800, 0}, RowCase{3, 8208, 0}, RowCase{3, 8211, 1}}) {
      SCOPED_TRACE(name_of(dtypes, rows));
      for (const Wanted& wanted : kWanted) check_backward(dtypes, rows, wanted);
    }
  }
}

// The bits of y are those of the f32 result, rounded.
TEST(CudaResidualNorm, LowResultsAreRoundedOnes) {
  for (DType low : {DType::bf16, DType::f16}) {
    for (int64_t width : {40, 768, 1001, 9000}) {
      const Array x = test::on_device(test::values({3, width}, DType::f32, -2, 3, 1));
      const Array weight = test::on_device(test::values({width}, DType::f32, 0.5, 2, 2));
      const Array mean = test::on_device(Array::empty({3}, DType::f32));
      const Array wide = test::on_device(Array::empty({3, width}, DType::f32));
      const Array narrow = test::on_device(Array::empty({3, width}, low));
      for (const Array& y : {wide, narrow}) {
        test::device_kernels().layer_norm(x.view(), {}, weight.view(), View(), kEpsilon, y.view(),
                                          mean.view(), mean.view());
      }
      const Array rounded = Array::empty({3, width}, low);
      test::host_kernels().copy(test::on_host(wide).view(), rounded.view());
      test::expect_near(narrow, rounded, 0);
    }
  }
}

}  // namespace
}  // namespace lockstep
