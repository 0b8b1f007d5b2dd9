#include <limits>

#include "unit/cuda/row_cases.h"

namespace lockstep {
namespace {

using test::RowCase;

constexpr int64_t kIgnore = -100;

// The first and the last class, those beside a pack's edge, and rows to ignore.
Array targets_for(int64_t rows, int64_t classes) {
  const int64_t some[] = {0, classes - 1, kIgnore, classes / 2, 7, 8, 9, kIgnore, 1};
  std::vector<int64_t> targets;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t target = some[i % 9];
    targets.push_back(target == kIgnore ? kIgnore : target % classes);
  }
  return Array::from(targets, {rows});
}

void check(const Array& logits, int64_t gradient_offset) {
  const DType dtype = logits.dtype(), statistics = test::statistics_of(dtype);
  const int64_t rows = logits.dim(0);
  const Array targets = targets_for(rows, logits.dim(1));
  const Array loss = test::before({rows}, statistics, 0, 1);
  const Array sums = test::before({rows}, statistics, 0, 1);
  const Array x = test::on_device(logits), classes = test::on_device(targets);
  const Array loss_on = test::on_device(loss), sums_on = test::on_device(sums);
  test::device_kernels().cross_entropy(x.view(), classes.view(), kIgnore, loss_on.view(),
                                       sums_on.view());
  test::host_kernels().cross_entropy(logits.view(), targets.view(), kIgnore, loss.view(),
                                     sums.view());
  test::expect_near(loss_on, loss, test::tolerance(statistics, 32));
  test::expect_near(sums_on, sums, test::tolerance(statistics, 32));

  const Array dloss = test::values({rows}, statistics, -2, 2, 4);
  for (double beta : {0.0, 1.0, -0.5}) {
    const Array expected = test::before(logits.shape(), dtype, beta, 3, gradient_offset);
    const Array gradient = test::on_device(expected);
    test::device_kernels().cross_entropy_backward(
        x.view(), classes.view(), kIgnore, test::on_device(sums).view(),
        test::on_device(dloss).view(), gradient.view(), beta);
    test::host_kernels().cross_entropy_backward(logits.view(), targets.view(), kIgnore, sums.view(),
                                                dloss.view(), expected.view(), beta);
    test::expect_near(gradient, expected, test::tolerance(dtype, 16), beta == 0 ? 1e-3 : 1);
  }
}

TEST(CudaCrossEntropy, EveryWidthAndDtype) {
  for (DType dtype : test::kFloats) {
    for (const RowCase& rows : test::kRowCases) {
      SCOPED_TRACE(::testing::Message() << name_of(dtype) << " classes " << rows.width);
      check(test::offset_values({rows.rows, rows.width}, dtype, -4, 4, 1, rows.offset),
            rows.offset);
    }
  }
}

TEST(CudaCrossEntropy, ManyClassesOfAnOddNumber) {
  for (DType dtype : test::kFloats) {
    check(test::values({9, 5025}, dtype, -10, 10), 0);
    check(test::values({4, 50257}, dtype, -10, 10), 0);
  }
}

TEST(CudaCrossEntropy, GradientThatLiesDifferently) {
  for (DType dtype : test::kFloats) {
    check(test::values({5, 129}, dtype, -4, 4), 1);
    check(test::values({2, 1601}, dtype, -4, 4), 3);
  }
}

// Rows that lie apart, on boundaries of 16 bytes or not; nothing is written between them.
TEST(CudaCrossEntropy, RowsOfAWiderArray) {
  for (DType dtype : test::kFloats) {
    for (const int64_t classes : {61, 1601}) {
      for (const int64_t apart : {classes + 1, (classes + 63) / 64 * 64}) {
        SCOPED_TRACE(::testing::Message() << name_of(dtype) << " rows " << apart << " apart");
        const Array wide = test::values({5, apart}, dtype, -4, 4);
        check(wide.narrow(1, 0, classes), 0);
        check(wide.narrow(1, 1, classes), 1);
        const Array x = wide.narrow(1, 0, classes), targets = targets_for(5, classes);
        const Array sums = test::values({5}, test::statistics_of(dtype), 7, 8);
        const Array on = test::on_device(x);
        for (const bool here : {true, false}) {
          Kernels& kernels = here ? test::host_kernels() : test::device_kernels();
          const auto on_it = [&](const Array& a) { return here ? a : test::on_device(a); };
          const Array logits = here ? x : on;
          kernels.cross_entropy_backward(logits.view(), on_it(targets).view(), kIgnore,
                                         on_it(sums).view(), on_it(sums).view(), logits.view(), 0);
        }
        test::expect_near(on, x, test::tolerance(dtype, 16), 1);
        const int64_t rest = apart - classes;
        const Array between(on.storage(), dtype, {5, rest}, {apart, 1}, classes);
        EXPECT_EQ(between.to_vector<double>(), wide.narrow(1, classes, rest).to_vector<double>());
        const Array fresh = test::values({5, apart}, dtype, -4, 4);
        EXPECT_EQ(between.to_vector<double>(), fresh.narrow(1, classes, rest).to_vector<double>());
      }
    }
  }
}

TEST(CudaCrossEntropy, InfinityAndNan) {
  const double infinity = std::numeric_limits<double>::infinity();
  const std::vector<std::vector<double>> kinds = {{-infinity},      {2, -infinity},
                                                  {infinity, 1},    {1, std::nan("")},
                                                  {std::nan("")},   {-infinity, std::nan("")},
                                                  {6e4, -6e4, 6e4}, {-infinity, 1}};
  for (DType dtype : test::kFloats) {
    for (int64_t width : {3, 40, 1501}) {
      std::vector<double> numbers;
      for (const auto& kind : kinds) {
        for (int64_t i = 0; i < width; ++i) {
          numbers.push_back(kind[static_cast<size_t>(i) % kind.size()]);
        }
      }
      const Array doubles = Array::from(numbers, {static_cast<int64_t>(kinds.size()), width});
      const Array x = Array::empty(doubles.shape(), dtype);
      test::host_kernels().copy(doubles.view(), x.view());
      SCOPED_TRACE(::testing::Message() << name_of(dtype) << " classes " << width);
      check(x, 0);
    }
  }
}

TEST(CudaCrossEntropy, GradientOverTheLogits) {
  const Array x = test::values({3, 1601}, DType::bf16, -4, 4);
  const Array targets = targets_for(3, 1601);
  const Array sums = test::values({3}, DType::f32, 7, 8),
              dloss = test::values({3}, DType::f32, 0, 1);
  const Array expected = Array::empty(x.shape(), x.dtype());
  test::host_kernels().cross_entropy_backward(x.view(), targets.view(), kIgnore, sums.view(),
                                              dloss.view(), expected.view(), 0);
  const Array on = test::on_device(x);
  test::device_kernels().cross_entropy_backward(on.view(), test::on_device(targets).view(), kIgnore,
                                                test::on_device(sums).view(),
                                                test::on_device(dloss).view(), on.view(), 0);
  test::expect_near(on, expected, test::tolerance(DType::bf16), 1e-3);
}

// One loss for all rows, or losses that lie apart.
TEST(CudaCrossEntropy, LossGradientsOfAnyDistance) {
  for (DType dtype : test::kFloats) {
    const DType statistics = test::statistics_of(dtype);
    const Array x = test::values({7, 61}, dtype, -4, 4), targets = targets_for(7, 61);
    const Array sums = test::values({7}, statistics, 7, 8);
    const Array all = test::values({7, 3}, statistics, -2, 2);
    for (const Array& dloss : {all.select(1, 1), all.select(1, 1).narrow(0, 2, 1).expand({7})}) {
      const Array expected = Array::empty(x.shape(), dtype);
      const Array on = Array::empty(x.shape(), dtype, test::device());
      test::host_kernels().cross_entropy_backward(x.view(), targets.view(), kIgnore, sums.view(),
                                                  dloss.view(), expected.view(), 0);
      test::device_kernels().cross_entropy_backward(
          test::on_device(x).view(), test::on_device(targets).view(), kIgnore,
          test::on_device(sums).view(), test::on_device(dloss).view(), on.view(), 0);
      test::expect_near(on, expected, test::tolerance(dtype, 16), 1);
      const Array dense = Array::empty(x.shape(), dtype);
      const Array copied = Array::from(dloss.to_vector<double>(), {7});
      const Array converted = Array::empty({7}, statistics);
      test::host_kernels().copy(copied.view(), converted.view());
      test::host_kernels().cross_entropy_backward(x.view(), targets.view(), kIgnore, sums.view(),
                                                  converted.view(), dense.view(), 0);
      EXPECT_EQ(expected.to_vector<double>(), dense.to_vector<double>());
    }
  }
}

// Of one block, of several, and of rows that all are ignored.
TEST(CudaCrossEntropy, MeanOfLosses) {
  for (DType dtype : {DType::f32, DType::f64}) {
    for (const int64_t rows : {0, 1, 64, 255, 8192, 8193, 50001}) {
      for (const int64_t ignored : {int64_t{0}, int64_t{3}, rows}) {
        SCOPED_TRACE(::testing::Message() << name_of(dtype) << " rows " << rows << ", of which "
                                          << ignored << " are ignored");
        const Array loss = test::values({rows}, dtype, -1, 5);
        std::vector<int64_t> classes(static_cast<size_t>(rows), 1);
        double sum = 0, count = 0;
        const std::vector<double> losses = loss.to_vector<double>();
        for (int64_t i = 0; i < rows; ++i) {
          const bool counts = ignored < rows && i % 9 >= ignored;
          if (!counts) classes[static_cast<size_t>(i)] = kIgnore;
          sum += counts ? losses[static_cast<size_t>(i)] : 0;
          count += counts;
        }
        const Array targets = Array::from(classes, {rows});
        const Array expected = Array::full({2}, 7, dtype);
        const Array on = test::on_device(expected);
        test::host_kernels().mean_loss(loss.view(), targets.view(), kIgnore, expected.view());
        test::device_kernels().mean_loss(test::on_device(loss).view(),
                                         test::on_device(targets).view(), kIgnore, on.view());
        test::expect_near(on, expected, test::tolerance(dtype, dtype == DType::f64 ? 16 : 1));
        const std::vector<double> values = expected.to_vector<double>();
        if (count == 0) {
          EXPECT_TRUE(std::isnan(values[0]));
          EXPECT_TRUE(std::isinf(values[1]));
        } else {
          EXPECT_NEAR(values[0], sum / count, test::tolerance(DType::f32, 1));
          EXPECT_NEAR(values[1], 1 / count, test::tolerance(DType::f32, 1));
        }
      }
    }
  }
}

TEST(CudaCrossEntropy, NoRows) {
  const Array x = test::on_device(Array::empty({0, 7}, DType::f32));
  const Array none = test::on_device(Array::empty({0}, DType::f32));
  const Array targets = test::on_device(Array::empty({0}, DType::i64));
  test::device_kernels().cross_entropy(x.view(), targets.view(), kIgnore, none.view(), none.view());
  test::device_kernels().cross_entropy_backward(x.view(), targets.view(), kIgnore, none.view(),
                                                none.view(), x.view(), 1);
}

}  // namespace
}  // namespace lockstep
