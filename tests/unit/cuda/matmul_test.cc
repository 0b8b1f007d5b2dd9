#include <gtest/gtest.h>

#include "support/device_check.h"

namespace lockstep {
namespace {

struct Case {
  int64_t m, k, n;
};

constexpr Case kCases[] = {{1, 1, 1}, {5, 7, 3}, {64, 32, 48}, {33, 1, 17}, {1, 40, 9}, {6, 0, 4}};

void check(const Array& a, const Array& b, const Array& c, double beta) {
  const Array on = test::on_device(c);
  test::device_kernels().matmul(test::on_device(a).view(), test::on_device(b).view(), on.view(),
                                beta);
  test::host_kernels().matmul(a.view(), b.view(), c.view(), beta);
  test::expect_near(on, c, test::tolerance(c.dtype(), 16));
}

TEST(CudaMatmul, EveryDtypeLayoutAndBeta) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    for (const Case& shape : kCases) {
      for (int layout = 0; layout < 8; ++layout) {
        for (double beta : {0.0, 1.0}) {
          const auto matrix = [&](int64_t rows, int64_t columns, bool transposed, uint64_t seed) {
            const Array x = test::values(transposed ? Shape{columns, rows} : Shape{rows, columns},
                                         dtype, -1, 1, seed);
            return transposed ? x.transpose(0, 1) : x;
          };
          check(matrix(shape.m, shape.k, layout & 1, 1), matrix(shape.k, shape.n, layout & 2, 2),
                matrix(shape.m, shape.n, layout & 4, 3), beta);
        }
      }
    }
  }
}

// Rows further apart than they are long, and windows that begin anywhere.
TEST(CudaMatmul, Windows) {
  const Array a = test::values({40, 50}, DType::f32, -1, 1, 1).narrow(0, 3, 20).narrow(1, 5, 13);
  const Array b = test::values({40, 50}, DType::f32, -1, 1, 2).narrow(0, 1, 13).narrow(1, 7, 9);
  const Array c = test::values({40, 50}, DType::f32, -1, 1, 3).narrow(0, 2, 20).narrow(1, 1, 9);
  check(a, b, c, 0.5);
}

// Leading dimensions that lie together, that do not, and that are broadcast.
TEST(CudaMatmul, Batches) {
  const Array a = test::values({2, 3, 4, 5, 6}, DType::f64, -1, 1, 1);
  const Array b = test::values({2, 3, 4, 6, 7}, DType::f64, -1, 1, 2);
  const auto c = [](Shape lead) {
    lead.append(5);
    lead.append(7);
    return Array::zeros(lead, DType::f64);
  };
  check(a, b, c({2, 3, 4}), 0);
  check(a.transpose(0, 2), b.transpose(0, 2), c({4, 3, 2}), 0);
  const Array shared = test::values({1, 3, 1, 6, 7}, DType::f64, -1, 1, 3);
  check(a, shared.expand({2, 3, 4, 6, 7}), c({2, 3, 4}), 1);
}

TEST(CudaMatmul, IntegersAreExact) {
  for (DType dtype : {DType::i64, DType::i32, DType::u8}) {
    check(test::values({2, 7, 9}, dtype, 0, 4, 1), test::values({2, 9, 5}, dtype, 0, 4, 2),
          test::values({2, 7, 5}, dtype, 0, 4, 3), 1);
  }
}

TEST(CudaMatmul, LinearWithAndWithoutBias) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16, DType::i64}) {
    const Array x = test::values({9, 16}, dtype, -2, 2, 1);
    const Array w = test::values({24, 16}, dtype, -2, 2, 2);
    const Array bias = test::values({24, 2}, dtype, -2, 2, 3);
    for (const Array& b : {Array(), bias.select(1, 0), test::values({24}, dtype, -2, 2, 4)}) {
      const Array y = Array::full({9, 24}, 7, dtype), on = test::on_device(y);
      const Array b_on = b ? test::on_device(b) : b;
      test::device_kernels().linear(test::on_device(x).view(), test::on_device(w).view(),
                                    b ? b_on.view() : View{}, on.view());
      test::host_kernels().linear(x.view(), w.view(), b ? b.view() : View{}, y.view());
      test::expect_near(on, y, test::tolerance(dtype, 16), 4);
    }
  }
}

TEST(CudaMatmul, LinearIntoRowsThatLieApart) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16, DType::i64}) {
    const Array x = test::values({9, 16}, dtype, -2, 2, 1);
    const Array w = test::values({21, 16}, dtype, -2, 2, 2);
    const Array bias = test::values({21}, dtype, -2, 2, 3);
    for (const Array& b : {Array(), bias}) {
      const Array wide = Array::full({9, 32}, 7, dtype), y = wide.narrow(1, 0, 21);
      const Array on = test::on_device(y), b_on = b ? test::on_device(b) : b;
      test::device_kernels().linear(test::on_device(x).view(), test::on_device(w).view(),
                                    b ? b_on.view() : View{}, on.view());
      test::host_kernels().linear(x.view(), w.view(), b ? b.view() : View{}, y.view());
      test::expect_near(on, y, test::tolerance(dtype, 16), 4);
      EXPECT_EQ(wide.narrow(1, 21, 11).to_vector<double>(), std::vector<double>(9 * 11, 7));
      const Array between(on.storage(), dtype, {9, 11}, {32, 1}, 21);
      EXPECT_EQ(between.to_vector<double>(), std::vector<double>(9 * 11, 7));
    }
  }
}

// As weights' gradients under autocast: 16-bit operands, f32 results that are added to.
TEST(CudaMatmul, ShortOperandsIntoF32) {
  for (DType dtype : {DType::bf16, DType::f16}) {
    for (double beta : {0.0, 1.0}) {
      check(test::values({33, 20}, dtype, -1, 1, 1).transpose(0, 1),
            test::values({33, 24}, dtype, -1, 1, 2), test::values({20, 24}, DType::f32, -1, 1, 3),
            beta);
    }
  }
}

TEST(CudaMatmul, MoreBatchesThanTheLibraryTakes) {
  const int64_t many = 2 * 65535 + 3;
  check(test::values({many, 1, 2}, DType::f32, -1, 1, 1),
        test::values({many, 2, 1}, DType::f32, -1, 1, 2), Array::zeros({many, 1, 1}, DType::f32),
        0);
}

TEST(CudaMatmul, BetaZeroIgnoresWhatWasThere) {
  const Array c = Array::full({3, 4}, std::nan(""), DType::f32);
  check(test::values({3, 5}, DType::f32, -1, 1), test::values({5, 4}, DType::f32, -1, 1), c, 0);
  const Array empty = Array::full({3, 4}, std::nan(""), DType::f32);
  check(Array::zeros({3, 0}, DType::f32), Array::zeros({0, 4}, DType::f32), empty, 0);
}

}  // namespace
}  // namespace lockstep
