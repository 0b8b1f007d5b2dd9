#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "lockstep/runtime/cuda/kernels/small_product.h"
#include "lockstep/runtime/math/unary.h"
#include "lockstep/runtime/plugin.h"
#include "simulated/recorder.h"
#include "support/device_check.h"

// f32 products with small results against the same in f64.
namespace lockstep {
namespace {

constexpr Elementwise kRelu{math::index_of<math::UnaryOps, math::Relu>};
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Case {
  int64_t m, n, k;
};

Array in_double(const Array& x) {
  const Array result = Array::empty(x.shape(), DType::f64);
  test::host_kernels().copy(x.view(), result.view());
  return result;
}

// Rows as stored lie `apart` elements further apart than they are long, and begin with the memory
// where that is a multiple of 4.
Array matrix(int64_t rows, int64_t columns, bool transposed, int64_t apart, uint64_t seed) {
  if (transposed) return matrix(columns, rows, false, apart, seed).transpose(0, 1);
  const Array all = test::values({rows, columns + apart}, DType::f32, -1, 1, seed);
  return all.narrow(1, apart % 4, columns);
}

void expect_sums(const Array& on, const Array& expected, int64_t terms) {
  test::expect_near(on, expected, test::tolerance(DType::f32, 2), static_cast<double>(terms));
}

void check_product(const Case& shape, int layout, int64_t apart, double beta) {
  SCOPED_TRACE(testing::Message() << shape.m << " x " << shape.k << " x " << shape.n << ", layout "
                                  << layout << ", apart " << apart << ", beta " << beta);
  const Array a = matrix(shape.m, shape.k, (layout & 1) != 0, apart, 1);
  const Array b = matrix(shape.k, shape.n, (layout & 2) != 0, apart, 2);
  const Array c = matrix(shape.m, shape.n, (layout & 4) != 0, apart, 3);
  const Array expected = in_double(c);
  test::host_kernels().matmul(in_double(a).view(), in_double(b).view(), expected.view(), beta);
  if (beta == 0) test::host_kernels().fill(c.view(), kNan);
  const Array on = test::on_device(c);
  test::device_kernels().matmul(test::on_device(a).view(), test::on_device(b).view(), on.view(),
                                beta);
  expect_sums(on, expected, shape.k);
}

// y = x w' + bias, or relu of it.
void check_linear(const Case& shape, bool has_bias, bool relu) {
  SCOPED_TRACE(testing::Message() << shape.m << " x " << shape.k << " x " << shape.n << ", bias "
                                  << has_bias << ", relu " << relu);
  const Array x = test::values({shape.m, shape.k}, DType::f32, -1, 1, 1);
  const Array w = test::values({shape.n, shape.k}, DType::f32, -1, 1, 2);
  const Array bias = test::values({shape.n}, DType::f32, -4, 4, 3), bias_on = test::on_device(bias),
              wide = in_double(bias);
  const Array y = Array::full({shape.m, shape.n}, kNan, DType::f32), on = test::on_device(y),
              expected = in_double(y);
  test::host_kernels().linear(in_double(x).view(), in_double(w).view(),
                              has_bias ? wide.view() : View{}, expected.view());
  const View given = has_bias ? bias_on.view() : View{};
  const Array x_on = test::on_device(x), w_on = test::on_device(w);
  if (relu) {
    test::host_kernels().unary(kRelu, expected.view(), expected.view());
    test::device_kernels().linear_activation(x_on.view(), w_on.view(), given, kRelu, {}, on.view());
  } else {
    test::device_kernels().linear(x_on.view(), w_on.view(), given, on.view());
  }
  expect_sums(on, expected, shape.k);
}

// dw = dy' x, and the bias's gradient.
void check_weight_gradient(const Case& shape, double beta) {
  SCOPED_TRACE(testing::Message() << shape.m << " x " << shape.k << " x " << shape.n << ", beta "
                                  << beta);
  const Array dy = test::values({shape.k, shape.m}, DType::f32, -1, 1, 1);
  const Array x = test::values({shape.k, shape.n}, DType::f32, -1, 1, 2);
  const Array dw = test::values({shape.m, shape.n}, DType::f32, -1, 1, 3);
  const Array db = test::values({shape.m}, DType::f32, -1, 1, 4);
  const Array dw_expected = in_double(dw), db_expected = in_double(db);
  const double both[] = {beta, beta};
  test::host_kernels().linear_weight_gradient(in_double(dy).view(), in_double(x).view(),
                                              dw_expected.view(), db_expected.view(), both);
  if (beta == 0) {
    test::host_kernels().fill(dw.view(), kNan);
    test::host_kernels().fill(db.view(), kNan);
  }
  const Array dw_on = test::on_device(dw), db_on = test::on_device(db);
  test::device_kernels().linear_weight_gradient(
      test::on_device(dy).view(), test::on_device(x).view(), dw_on.view(), db_on.view(), both);
  expect_sums(dw_on, dw_expected, shape.k);
  expect_sums(db_on, db_expected, shape.k);
}

// Those of a classifier of 784-512-512-10 with a batch of 64, as often as the choice of how to do
// them takes, and once more.
TEST(CudaSmallProducts, ShapesOfAClassifier) {
  for (int time = 0; time < 2; ++time) {
    for (const int64_t in : {784, 512}) check_linear({64, 512, in}, true, true);
    check_linear({64, 10, 512}, true, false);
    for (const int64_t out : {10, 512}) check_product({64, 512, out}, 0, 0, 0);
    for (const double beta : {0.0, 1.0}) {
      for (const int64_t in : {784, 512}) check_weight_gradient({512, in, 64}, beta);
      check_weight_gradient({10, 512, 64}, beta);
    }
  }
}

// All of them by our own kernel, by one way of cutting the result.
class SimulatedSmallProducts : public ::testing::TestWithParam<int> {
 protected:
  SimulatedSmallProducts() {
    test::device_kernels();
    blas_ = open_plugin("liblockstep_cuda.so")
                .function<simulated::BlasRecorderFunction>(simulated::kBlasRecorderFunction)();
    blas_->tiling = GetParam();
    blas_->own_products = 0;
  }
  ~SimulatedSmallProducts() override { blas_->tiling = -1; }

  simulated::BlasRecorder* blas_;
};

// Of less than a tile, of several, with sums of less than a vector and of more than all stages.
constexpr Case kCases[] = {{1, 1, 1},    {5, 7, 3},    {16, 16, 40},  {33, 17, 130},
                           {70, 40, 96}, {12, 24, 10}, {17, 9, 1030}, {20, 36, 1200}};

TEST_P(SimulatedSmallProducts, EveryLayoutStrideAndBeta) {
  int products = 0;
  for (const Case& shape : kCases) {
    for (int layout = 0; layout < 8; ++layout) {
      for (const int64_t apart : {0, 4, 3}) {
        for (const double beta : {0.0, 0.5}) {
          check_product(shape, layout, apart, beta);
          ++products;
        }
      }
    }
  }
  EXPECT_EQ(blas_->own_products, products);
}

TEST_P(SimulatedSmallProducts, BiasAndRelu) {
  int products = 0;
  for (const Case& shape : kCases) {
    for (int variant = 0; variant < 4; ++variant, ++products) {
      check_linear(shape, (variant & 1) != 0, (variant & 2) != 0);
    }
  }
  EXPECT_EQ(blas_->own_products, products);
}

TEST_P(SimulatedSmallProducts, BiasGradient) {
  int products = 0;
  for (const Case& shape : kCases) {
    for (const double beta : {0.0, 1.0}) {
      check_weight_gradient(shape, beta);
      ++products;
    }
  }
  EXPECT_EQ(blas_->own_products, products);
}

TEST_P(SimulatedSmallProducts, ReluKeepsNan) {
  Array x = test::values({9, 16}, DType::f32, -1, 1, 1);
  const Array w = test::values({24, 16}, DType::f32, -1, 1, 2);
  test::host_kernels().fill(x.narrow(0, 4, 1).view(), kNan);
  const Array y = Array::full({9, 24}, 7, DType::f32, test::device());
  test::device_kernels().linear_activation(test::on_device(x).view(), test::on_device(w).view(), {},
                                           kRelu, {}, y.view());
  const std::vector<float> got = test::on_host(y).to_vector<float>();
  for (size_t i = 0; i < got.size(); ++i) EXPECT_EQ(std::isnan(got[i]), i / 24 == 4);
  EXPECT_EQ(blas_->own_products, 1);
}

TEST_P(SimulatedSmallProducts, OthersAreTheLibrarys) {
  const auto multiply = [](DType dtype, const Shape& a, const Shape& b, const Shape& c) {
    const Array on = Array::zeros(c, dtype, test::device());
    test::device_kernels().matmul(Array::zeros(a, dtype, test::device()).view(),
                                  Array::zeros(b, dtype, test::device()).view(), on.view(), 0);
  };
  for (DType dtype : {DType::f64, DType::bf16, DType::f16}) {
    multiply(dtype, {8, 8}, {8, 8}, {8, 8});
  }
  multiply(DType::f32, {2, 8, 8}, {2, 8, 8}, {2, 8, 8});     // a batch
  multiply(DType::f32, {4096, 1}, {1, 1024}, {4096, 1024});  // too many tiles
  EXPECT_EQ(blas_->own_products, 0);
}

INSTANTIATE_TEST_SUITE_P(Simulated, SimulatedSmallProducts,
                         ::testing::Range(0, cuda::kSmallProductTilings));

}  // namespace
}  // namespace lockstep
