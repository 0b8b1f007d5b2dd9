#include <gtest/gtest.h>

#include "kernel_testing.h"
#include "lockstep/runtime/cpu/gemm.h"

namespace lockstep::testing {
namespace {

// A batch of matrices whose rows or columns are dense, with room between them.
Array matrix(Shape shape, DType dtype, bool transposed, int64_t padding, unsigned seed) {
  const int rows = shape.rank() - 2;
  const int columns = shape.rank() - 1;
  if (transposed) std::swap(shape[rows], shape[columns]);
  Shape memory = shape;
  memory[columns] += padding;
  Array array = Array::empty(memory, dtype).narrow(columns, 0, shape[columns]);
  std::mt19937_64 generator(seed);
  std::uniform_real_distribution<double> distribution(-1, 1);
  std::vector<double> values(static_cast<size_t>(array.elements()));
  for (double& value : values) value = distribution(generator);
  set(array, values);
  return transposed ? array.transpose(rows, columns) : array;
}

void check(Kernels& kernels, const Array& a, const Array& b, const Array& c, double beta,
           const std::string& what) {
  const int64_t m = c.dim(-2), n = c.dim(-1), k = a.dim(-1);
  const auto left = doubles(a), right = doubles(b);
  auto expected = doubles(c);
  for (size_t i = 0; i < expected.size(); ++i) {
    const int64_t at = static_cast<int64_t>(i);
    const int64_t batch = at / (m * n), row = at / n % m, column = at % n;
    double sum = beta == 0 ? 0 : beta * expected[i];
    for (int64_t p = 0; p < k; ++p) {
      sum += left[(batch * m + row) * k + p] * right[(batch * k + p) * n + column];
    }
    expected[i] = sum;
  }
  kernels.matmul(a.view(), b.view(), c.view(), beta);
  const bool exact = !is_floating(c.dtype());
  const double scale = std::sqrt(static_cast<double>(k));
  expect_near(doubles(c), expected, exact ? 0 : relative_bound(c.dtype()),
              exact                     ? 0
              : c.dtype() == DType::f64 ? 1e-14 * scale
                                        : 1e-6 * scale,
              what);
}

// Whether this build and processor have products of bf16 at all: builds under ThreadSanitizer are
// without oneDNN.
bool has_bf16_products() {
#ifdef __SANITIZE_THREAD__
  return false;
#else
  return __builtin_cpu_supports("avx512bf16");
#endif
}

// oneDNN's, which matmul takes on processors with AMX only. Where there are none, it may not claim
// them: it converts (every layout and dtype is in the tests below).
TEST(Matmul, ProductsInBf16) {
  auto levels = all_levels();
  if (!has_bf16_products()) {
    for (auto& level : levels) EXPECT_FALSE(level.kernels.multiplies_in(DType::bf16));
    return;
  }
  for (int layout = 0; layout < 8; ++layout) {
    const DType result = layout < 4 ? DType::bf16 : DType::f32;
    for (double beta : {0.0, 1.0, -0.5}) {
      const cpu::Gemm shape{.m = 50,
                            .n = 70,
                            .k = 129,
                            .transpose_a = (layout & 1) != 0,
                            .transpose_b = (layout & 2) != 0,
                            .lda = (layout & 1) != 0 ? 52 : 131,
                            .ldb = (layout & 2) != 0 ? 132 : 73,
                            .ldc = 75,
                            .beta = beta};
      const Array a = matrix({50, 129}, DType::bf16, shape.transpose_a, 2, 1);
      const Array b = matrix({129, 70}, DType::bf16, shape.transpose_b, 3, 2);
      const Array c = matrix({50, 70}, result, false, 5, 3);
      const Array expected = Array::empty({50, 70}, DType::f32);
      levels.back().kernels.copy(c.view(), expected.view());
      const auto multiply = [&](auto* out) {
        cpu::gemm(cpu::loops_of(cpu::Level::v2), shape, static_cast<const BFloat16*>(a.data()),
                  static_cast<const BFloat16*>(b.data()), out);
      };
      result == DType::bf16 ? multiply(static_cast<BFloat16*>(c.data()))
                            : multiply(static_cast<float*>(c.data()));
      Array wide_a = Array::empty({50, 129}, DType::f32),
            wide_b = Array::empty({129, 70}, DType::f32);
      levels.back().kernels.copy(a.view(), wide_a.view());
      levels.back().kernels.copy(b.view(), wide_b.view());
      levels.back().kernels.matmul(wide_a.view(), wide_b.view(), expected.view(), beta);
      expect_near(doubles(c), doubles(expected), relative_bound(result), 1e-5,
                  "layout " + std::to_string(layout) + " beta " + std::to_string(beta));
    }
  }
}

TEST(Matmul, EveryLayoutAndBeta) {
  const int64_t sizes[][3] = {{1, 1, 1},   {3, 5, 7},     {1, 40, 33},
                              {64, 1, 20}, {50, 70, 129}, {800, 60, 40}};
  auto levels = all_levels();
  Kernels& kernels = levels.back().kernels;
  for (DType dtype : kFloats) {
    for (const auto& size : sizes) {
      for (int layout = 0; layout < 16; ++layout) {
        const int64_t padding = (layout & 8) != 0 ? 3 : 0;
        for (double beta : {0.0, 1.0, -0.5}) {
          const Array a = matrix({size[0], size[2]}, dtype, (layout & 1) != 0, padding, 1);
          const Array b = matrix({size[2], size[1]}, dtype, (layout & 2) != 0, padding, 2);
          const Array c = matrix({size[0], size[1]}, dtype, (layout & 4) != 0, padding, 3);
          if (beta == 0) kernels.fill(c.view(), std::nan(""));
          const std::string what = std::string(name_of(dtype)) + " layout " +
                                   std::to_string(layout) + " beta " + std::to_string(beta) + " " +
                                   c.shape().to_string();
          check(kernels, a, b, c, beta, what);
          if (dtype != DType::bf16 && dtype != DType::f16) continue;
          const Array wide = matrix({size[0], size[1]}, DType::f32, (layout & 4) != 0, padding, 4);
          check(kernels, a, b, wide, beta, what + " into f32");
        }
      }
    }
  }
}

TEST(Matmul, Batches) {
  auto levels = all_levels();
  Kernels& kernels = levels.back().kernels;
  for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::i64, DType::i32}) {
    // Small integers, exact in every dtype.
    const auto values = [&](const Shape& shape, int layout, unsigned seed) {
      const Array array = matrix(shape, DType::f64, (layout & 1) != 0, layout & 2, seed);
      std::vector<double> whole = doubles(array);
      for (double& value : whole) value = std::round(3 * value);
      const Array result = matrix(shape, dtype, (layout & 1) != 0, layout & 2, seed);
      set(result, whole);
      return result;
    };
    for (int layout = 0; layout < 4; ++layout) {
      const Array a = values({2, 3, 5, 7}, layout, 1);
      const Array b = values({2, 3, 7, 4}, layout, 2);
      check(kernels, a, b, values({2, 3, 5, 4}, 0, 3), 1, "batches");
      const Array shared = values({1, 1, 7, 4}, layout, 4).expand({2, 3, 7, 4});
      check(kernels, a, shared, values({2, 3, 5, 4}, 0, 5), 0, "shared right operand");
      const Array rows = values({1, 3, 5, 7}, layout, 6).expand({2, 3, 5, 7});
      check(kernels, rows, b, values({2, 3, 5, 4}, 0, 7), 0, "shared left operand");
    }
  }
}

TEST(Matmul, EmptyInnerDimensionGivesZeros) {
  auto levels = all_levels();
  Kernels& kernels = levels.back().kernels;
  const Array a = Array::empty({3, 0}, DType::f32);
  const Array b = Array::empty({0, 4}, DType::f32);
  const Array c = Array::full({3, 4}, 5, DType::f32);
  kernels.matmul(a.view(), b.view(), c.view(), 2);
  EXPECT_EQ(doubles(c), std::vector<double>(12, 10));
  kernels.matmul(a.view(), b.view(), c.view(), 0);
  EXPECT_EQ(doubles(c), std::vector<double>(12, 0));
  kernels.matmul(Array::empty({0, 3}, DType::f32).view(), c.view(),
                 Array::empty({0, 4}, DType::f32).view(), 0);
}

TEST(Matmul, BitsDoNotDependOnTheThreadCount) {
  auto levels = all_levels();
  Kernels& kernels = levels.back().kernels;
  for (DType dtype : {DType::f32, DType::f64}) {
    for (const Shape& shape : {Shape{1000, 300, 200}, Shape{60, 2000, 500}, Shape{90, 100, 3000}}) {
      const Array a = matrix({shape[0], shape[2]}, dtype, true, 0, 1);
      const Array b = matrix({shape[2], shape[1]}, dtype, false, 0, 2);
      std::vector<double> first;
      for (int threads : {1, 2, 3, 7}) {
        const Threads scope(threads);
        const Array c = Array::empty({shape[0], shape[1]}, dtype);
        kernels.matmul(a.view(), b.view(), c.view(), 0);
        if (threads == 1) first = doubles(c);
        EXPECT_EQ(doubles(c), first);
      }
    }
  }
}

}  // namespace
}  // namespace lockstep::testing
