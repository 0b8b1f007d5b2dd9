#include <gtest/gtest.h>

#include <limits>

#include "kernel_testing.h"

namespace lockstep::testing {
namespace {

constexpr ReduceOp kOps[] = {ReduceOp::sum, ReduceOp::mean, ReduceOp::max, ReduceOp::min};

// The same in plain loops over doubles; `mask` has a bit for each reduced dimension.
std::vector<double> reference(ReduceOp op, const Array& x, unsigned mask, Shape* kept) {
  *kept = x.shape();
  for (int i = 0; i < x.rank(); ++i) {
    if ((mask >> i & 1u) != 0) (*kept)[i] = 1;
  }
  const double infinity = std::numeric_limits<double>::infinity();
  const bool sums = op == ReduceOp::sum || op == ReduceOp::mean;
  const double initial = sums ? 0 : op == ReduceOp::max ? -infinity : infinity;
  std::vector<double> y(static_cast<size_t>(kept->elements()), initial);
  const std::vector<double> values = doubles(x);
  const Shape strides = contiguous_strides(*kept);
  for (size_t i = 0; i < values.size(); ++i) {
    int64_t rest = static_cast<int64_t>(i);
    int64_t at = 0;
    for (int d = x.rank() - 1; d >= 0; --d) {
      if ((*kept)[d] != 1) at += rest % x.dim(d) * strides[d];
      rest /= x.dim(d);
    }
    double& total = y[static_cast<size_t>(at)];
    if (sums) total += values[i];
    if (op == ReduceOp::max) total = std::max(total, values[i]);
    if (op == ReduceOp::min) total = std::min(total, values[i]);
  }
  if (op == ReduceOp::mean) {
    for (double& total : y) total *= double(kept->elements()) / double(x.elements());
  }
  return y;
}

TEST(Reduce, EverySetOfDimensionsEqualsPlainLoops) {
  const Shape shapes[] = {{6, 5, 40}, {70, 33}, {3, 1, 300}, {2, 3, 4, 5}};
  for (auto& level : all_levels()) {
    for (const Shape& shape : shapes) {
      for (unsigned mask = 0; mask < 1u << shape.rank(); ++mask) {
        for (ReduceOp op : kOps) {
          for (DType dtype : {DType::f64, DType::f32, DType::bf16}) {
            for (Layout layout : kLayouts) {
              const Array x = random(shape, dtype, layout);
              Shape kept;
              auto expected = reference(op, x, mask, &kept);
              const Array y = random(kept, dtype);
              const bool adds = op == ReduceOp::sum;
              const auto before = doubles(y);
              level.kernels.reduce(op, x.view(), y.view(), adds ? 0.5 : 0);
              for (size_t i = 0; adds && i < expected.size(); ++i) expected[i] += before[i] / 2;
              expect_near(doubles(y), expected, relative_bound(dtype),
                          dtype == DType::f64 ? 1e-11 : 1e-4,
                          level.name + " op " + std::to_string(static_cast<int>(op)) + " mask " +
                              std::to_string(mask) + " " + shape.to_string());
            }
          }
        }
      }
    }
  }
}

TEST(Reduce, LongSumsKeepTheirDigits) {
  const int64_t n = 3'000'000;
  for (auto& level : all_levels()) {
    const Array x = Array::empty({n}, DType::f32);
    level.kernels.fill(x.view(), 0.1);
    const Array y = Array::empty({1}, DType::f32);
    level.kernels.reduce(ReduceOp::sum, x.view(), y.view(), 0);
    EXPECT_NEAR(y.item() / (double(0.1f) * n), 1, 1e-5);
    const Array matrix = x.reshape({n / 10, 10});
    const Array columns = Array::empty({1, 10}, DType::f32);
    level.kernels.reduce(ReduceOp::sum, matrix.view(), columns.view(), 0);
    EXPECT_NEAR(doubles(columns)[3] / (double(0.1f) * n / 10), 1, 1e-5);
  }
}

TEST(Reduce, BitsDoNotDependOnTheThreadCount) {
  const Array x = random({1500, 700}, DType::f32);
  for (auto& level : all_levels()) {
    std::vector<double> sums[3];
    for (int threads : {1, 2, 5}) {
      const Threads scope(threads);
      for (const Shape& kept : {Shape{1, 700}, Shape{1500, 1}, Shape{1, 1}}) {
        const Array y = Array::empty(kept, DType::f32);
        level.kernels.reduce(ReduceOp::sum, x.view(), y.view(), 0);
        const auto values = doubles(y);
        auto& all = sums[threads == 1 ? 0 : threads == 2 ? 1 : 2];
        all.insert(all.end(), values.begin(), values.end());
      }
      sums[threads == 1   ? 0
           : threads == 2 ? 1
                          : 2]
          .push_back(level.kernels.sum_of_squares(x.view()));
    }
    EXPECT_EQ(sums[0], sums[1]);
    EXPECT_EQ(sums[0], sums[2]);
  }
}

TEST(Reduce, NanWinsMaximumAndMinimum) {
  for (auto& level : all_levels()) {
    for (ReduceOp op : {ReduceOp::max, ReduceOp::min}) {
      for (int64_t at : {0, 17, 99}) {
        const Array x = random({100, 64}, DType::f32);
        level.kernels.fill(x.select(0, at).select(0, 5).view(), std::nan(""));
        const Array columns = Array::empty({1, 64}, DType::f32);
        const Array rows = Array::empty({100, 1}, DType::f32);
        level.kernels.reduce(op, x.view(), columns.view(), 0);
        level.kernels.reduce(op, x.view(), rows.view(), 0);
        for (int i = 0; i < 64; ++i) EXPECT_EQ(std::isnan(doubles(columns)[i]), i == 5);
        for (int i = 0; i < 100; ++i) EXPECT_EQ(std::isnan(doubles(rows)[i]), i == at);
      }
    }
  }
}

TEST(Reduce, IntegersSumInInt64) {
  for (auto& level : all_levels()) {
    const Array x = Array::from<uint8_t>(std::vector<uint8_t>(1000, 200), {10, 100});
    const Array y = Array::empty({10, 1}, DType::i64);
    level.kernels.reduce(ReduceOp::sum, x.view(), y.view(), 0);
    EXPECT_EQ(y.to_vector<int64_t>(), std::vector<int64_t>(10, 20000));
    const Array large = Array::from<int64_t>({(int64_t{1} << 60) + 1, 5}, {2});
    const Array most = Array::empty({1}, DType::i64);
    level.kernels.reduce(ReduceOp::max, large.view(), most.view(), 0);
    EXPECT_EQ(most.to_vector<int64_t>()[0], (int64_t{1} << 60) + 1);
  }
}

TEST(Reduce, OverNothing) {
  for (auto& level : all_levels()) {
    const Array x = Array::empty({0, 3}, DType::f32);
    const Array y = Array::full({1, 3}, 7, DType::f32);
    level.kernels.reduce(ReduceOp::sum, x.view(), y.view(), 0);
    EXPECT_EQ(doubles(y), std::vector<double>(3, 0));
    level.kernels.reduce(ReduceOp::mean, x.view(), y.view(), 0);
    EXPECT_TRUE(std::isnan(doubles(y)[0]));
  }
}

TEST(Reduce, SumOfSquaresOfEveryDtype) {
  for (auto& level : all_levels()) {
    for (DType dtype : kFloats) {
      const Array x = random({300'001}, dtype);
      double expected = 0;
      for (double value : doubles(x)) expected += value * value;
      EXPECT_NEAR(level.kernels.sum_of_squares(x.view()) / expected, 1, 1e-12);
    }
    const Array x = Array::full({5000}, 1e30, DType::f32);  // the squares overflow f32
    EXPECT_NEAR(level.kernels.sum_of_squares(x.view()) / 5e63, 1, 1e-6);
    level.kernels.fill(x.narrow(0, 4321, 1).view(), std::nan(""));
    EXPECT_TRUE(std::isnan(level.kernels.sum_of_squares(x.view())));
    EXPECT_EQ(level.kernels.sum_of_squares(Array::empty({0}, DType::f32).view()), 0);
  }
}

}  // namespace
}  // namespace lockstep::testing
