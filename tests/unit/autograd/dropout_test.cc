#include "lockstep/autograd/ops/dropout.h"

#include <gtest/gtest.h>

#include <cmath>

#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/ops/reduce.h"

namespace lockstep {
namespace {

constexpr int64_t kRows = 200, kWidth = 500;

Tensor ones(DType dtype) { return Tensor(Array::full({kRows, kWidth}, 1, dtype)); }

// Of n draws that are 1/(1-p) with probability 1-p and 0 otherwise, mean and variance lie within
// five deviations of 1 and p/(1-p).
TEST(DropoutStatistics, MeanAndVariance) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    for (const double p : {0.05, 0.25, 0.5, 0.9}) {
      SCOPED_TRACE(concat({dtype, ", p = ", p}));
      const Tensor y = to(dropout(ones(dtype), p), DType::f64);
      const double n = static_cast<double>(y.elements()), variance = p / (1 - p);
      const double rounding = dtype == DType::f64 || dtype == DType::f32 ? 0 : 0.01 / (1 - p);
      EXPECT_NEAR(mean(y).item(), 1, 5 * std::sqrt(variance / n) + rounding);
      const double kept_squared = 1 / ((1 - p) * (1 - p));
      const double deviation = kept_squared * std::sqrt(p * (1 - p) / n);
      EXPECT_NEAR(mean(square(y)).item() - 1, variance, 5 * deviation + 4 * rounding / (1 - p));
      for (const double value : y.to_vector<double>()) {
        ASSERT_NEAR(value, value == 0 ? 0 : 1 / (1 - p), 1e-6 + rounding);
      }
    }
  }
}

TEST(DropoutStatistics, RowsColumnsAndDrawsAreIndependent) {
  const Tensor first = dropout(ones(DType::f64), 0.5), second = dropout(ones(DType::f64), 0.5);
  const double spread = 5 / std::sqrt(static_cast<double>(kRows * kWidth));
  EXPECT_NEAR(mean((first - 1) * (second - 1)).item(), 0, spread);
  // A row's (a column's) mean deviates like the mean of independent draws, no more and no less.
  EXPECT_NEAR(mean(square(mean(first, {1}) - 1)).item() * kWidth, 1, 0.6);
  EXPECT_NEAR(mean(square(mean(first, {0}) - 1)).item() * kRows, 1, 0.4);
}

TEST(DropoutStatistics, TheGradientHasTheSameMask) {
  const Tensor x = Tensor::variable(Array::full({kRows, kWidth}, 2, DType::f64));
  const Tensor y = dropout(x, 0.3);
  sum(y).backward();
  EXPECT_EQ(sum(abs(y.detach() - x.grad() * 2)).item(), 0);
}

}  // namespace
}  // namespace lockstep
