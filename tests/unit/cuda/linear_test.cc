#include <gtest/gtest.h>

#include "lockstep/runtime/math/unary.h"
#include "lockstep/runtime/plugin.h"
#include "simulated/recorder.h"
#include "support/device_check.h"

// Linear layers with what comes before and after them, by the library's epilogues and in steps.
namespace lockstep {
namespace {

constexpr DType kDtypes[] = {DType::f64, DType::f32, DType::bf16, DType::f16};

template <class F>
Elementwise op_of() {
  return {math::index_of<math::UnaryOps, F>};
}

View view_or_none(const Array& x) { return x ? x.view() : View{}; }
Array on_device_or_none(const Array& x) { return x ? test::on_device(x) : x; }

// Rows of 24 and 21 values: gelu's operand lies as the library wants it, or not.
void check_activation() {
  for (DType dtype : kDtypes) {
    for (const int64_t out : {24, 21}) {
      for (const Elementwise op :
           {op_of<math::GeluTanh>(), op_of<math::Gelu>(), op_of<math::Relu>()}) {
        for (int variant = 0; variant < 4; ++variant) {
          const Array x = test::values({9, 16}, dtype, -1, 1, 1);
          const Array w = test::values({out, 16}, dtype, -1, 1, 2);
          const Array all = test::values({out, 2}, dtype, -1, 1, 3);
          const Array bias = (variant & 1) != 0 ? all.select(1, 1) : Array();
          const Array before = (variant & 2) != 0 ? Array::full({9, out}, 7, dtype) : Array();
          const Array y = Array::full({9, out}, 7, dtype);
          const Array x_on = test::on_device(x), w_on = test::on_device(w),
                      b_on = on_device_or_none(bias), before_on = on_device_or_none(before),
                      y_on = test::on_device(y);
          test::device_kernels().linear_activation(x_on.view(), w_on.view(), view_or_none(b_on), op,
                                                   view_or_none(before_on), y_on.view());
          test::host_kernels().linear_activation(x.view(), w.view(), view_or_none(bias), op,
                                                 view_or_none(before), y.view());
          test::expect_near(y_on, y, test::tolerance(dtype, 16), 4);
          if (before) test::expect_near(before_on, before, test::tolerance(dtype, 16), 4);
        }
      }
    }
  }
}

void check_activation_backward() {
  for (DType dtype : kDtypes) {
    for (const int64_t in : {24, 21}) {
      for (const DType bias_dtype : {dtype, dtype == DType::f64 ? DType::f64 : DType::f32}) {
        for (const double beta : {0.0, 1.0}) {
          const Array dy = test::values({9, 16}, dtype, -1, 1, 1);
          const Array w = test::values({16, in}, dtype, -1, 1, 2);
          const Array before = test::values({9, in}, dtype, -3, 3, 3);
          for (const bool sums : {false, true}) {
            const Array d = Array::full({9, in}, std::nan(""), dtype);
            const Array db = sums ? test::values({in}, bias_dtype, -1, 1, 4) : Array();
            const Array dy_on = test::on_device(dy), w_on = test::on_device(w),
                        before_on = test::on_device(before), d_on = test::on_device(d),
                        db_on = on_device_or_none(db);
            const Elementwise op = op_of<math::GeluTanh>();
            test::device_kernels().linear_activation_backward(dy_on.view(), w_on.view(), op,
                                                              before_on.view(), d_on.view(),
                                                              view_or_none(db_on), beta);
            test::host_kernels().linear_activation_backward(dy.view(), w.view(), op, before.view(),
                                                            d.view(), view_or_none(db), beta);
            test::expect_near(d_on, d, test::tolerance(dtype, 16), 4);
            if (sums) test::expect_near(db_on, db, test::tolerance(dtype, 32), 8);
          }
        }
      }
    }
  }
}

void check_weight_gradient() {
  for (DType dtype : kDtypes) {
    for (const int64_t rows : {40, 0}) {
      for (const bool wide : {false, true}) {
        const DType result = wide && dtype != DType::f64 ? DType::f32 : dtype;
        for (int variant = 0; variant < 8; ++variant) {
          const Array dy = test::values({rows, 21}, dtype, -1, 1, 1);
          const Array x = test::values({rows, 24}, dtype, -1, 1, 2);
          const Array dw = test::values({21, 24}, result, -1, 1, 3);
          const Array all = test::values({21, 2}, result, -1, 1, 4);
          const Array db = (variant & 4) != 0 ? Array() : all.select(1, 0).to_host();
          const double beta[] = {variant & 1 ? 1.0 : 0.0, variant & 2 ? 1.0 : 0.0};
          const Array dy_on = test::on_device(dy), x_on = test::on_device(x),
                      dw_on = test::on_device(dw), db_on = on_device_or_none(db);
          test::device_kernels().linear_weight_gradient(dy_on.view(), x_on.view(), dw_on.view(),
                                                        view_or_none(db_on), beta);
          test::host_kernels().linear_weight_gradient(dy.view(), x.view(), dw.view(),
                                                      view_or_none(db), beta);
          test::expect_near(dw_on, dw, test::tolerance(result, 16), 4);
          if (db) test::expect_near(db_on, db, test::tolerance(result, 16), 4);
        }
      }
    }
  }
}

void check_bias() {
  for (DType dtype : kDtypes) {
    const Array x = test::values({9, 16}, dtype, -2, 2, 1);
    const Array w = test::values({24, 16}, dtype, -2, 2, 2);
    const Array bias = test::values({24}, dtype, -2, 2, 3);
    const Array y = Array::full({9, 24}, 7, dtype);
    const Array x_on = test::on_device(x), w_on = test::on_device(w), b_on = test::on_device(bias),
                y_on = test::on_device(y);
    test::device_kernels().linear(x_on.view(), w_on.view(), b_on.view(), y_on.view());
    test::host_kernels().linear(x.view(), w.view(), bias.view(), y.view());
    test::expect_near(y_on, y, test::tolerance(dtype, 16), 4);
  }
}

TEST(CudaLinear, Activation) { check_activation(); }
TEST(CudaLinear, ActivationBackward) { check_activation_backward(); }
TEST(CudaLinear, WeightGradient) { check_weight_gradient(); }
TEST(CudaLinear, WithABias) { check_bias(); }

// What is no number stays none, and does not become 0.
TEST(CudaLinear, ReluKeepsNan) {
  for (DType dtype : kDtypes) {
    const Array x = test::values({9, 16}, dtype, -1, 1, 1),
                w = test::values({24, 16}, dtype, -1, 1);
    const Array row = Array::full({1, 16}, std::nan(""), dtype);
    test::host_kernels().copy(row.view(), x.narrow(0, 4, 1).view());
    const Array y = Array::full({9, 24}, 7, dtype), bias = test::values({24}, dtype, -1, 1, 3);
    const Array y_on = test::on_device(y);
    test::device_kernels().linear_activation(test::on_device(x).view(), test::on_device(w).view(),
                                             test::on_device(bias).view(), op_of<math::Relu>(), {},
                                             y_on.view());
    test::host_kernels().linear_activation(x.view(), w.view(), bias.view(), op_of<math::Relu>(), {},
                                           y.view());
    EXPECT_TRUE(std::isnan(y.to_vector<double>()[4 * 24 + 5]));
    test::expect_near(y_on, y, test::tolerance(dtype, 16), 4);
  }
}

// Large enough that a device's library times its algorithms, which leaves what is added to alone.
TEST(CudaLinear, LargeWeightGradientsAreAddedOnce) {
  const auto zeros_and_ones = [](Shape shape, uint64_t seed) {
    const Array values = test::values(shape, DType::f32, 0, 2, seed);
    Array result = Array::empty(shape, DType::i64);
    test::host_kernels().copy(values.view(), result.view());
    Array low = Array::empty(shape, DType::bf16);
    test::host_kernels().copy(result.view(), low.view());
    return low;
  };
  const Array dy = test::on_device(zeros_and_ones({512, 1024}, 1)),
              x = test::on_device(zeros_and_ones({512, 1024}, 2));
  const Array once = Array::empty({1024, 1024}, DType::f32, test::device()),
              twice = Array::full({1024, 1024}, 0, DType::f32, test::device());
  const double replaced[] = {0, 0}, added[] = {1, 0};
  test::device_kernels().linear_weight_gradient(dy.view(), x.view(), once.view(), {}, replaced);
  for (int i = 0; i < 2; ++i) {
    test::device_kernels().linear_weight_gradient(dy.view(), x.view(), twice.view(), {}, added);
  }
  test::device_kernels().scale_add(2, once.view(), 0, once.view());
  EXPECT_EQ(once.to_vector<float>(), twice.to_vector<float>());
}

// With a library that has none of these epilogues.
class SimulatedLinearInSteps : public ::testing::Test {
 protected:
  SimulatedLinearInSteps() {
    test::device_kernels();
    blas_ = open_plugin("liblockstep_cuda.so")
                .function<simulated::BlasRecorderFunction>(simulated::kBlasRecorderFunction)();
    blas_->refuses = true;
  }
  ~SimulatedLinearInSteps() override { blas_->refuses = false; }

 private:
  simulated::BlasRecorder* blas_;
};

TEST_F(SimulatedLinearInSteps, Activation) { check_activation(); }
TEST_F(SimulatedLinearInSteps, ActivationBackward) { check_activation_backward(); }
TEST_F(SimulatedLinearInSteps, WeightGradient) { check_weight_gradient(); }
TEST_F(SimulatedLinearInSteps, WithABias) { check_bias(); }

}  // namespace
}  // namespace lockstep
