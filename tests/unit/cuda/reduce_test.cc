#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "support/device_layouts.h"

namespace lockstep {
namespace {

using test::device_kernels;
using test::host_kernels;
using test::Layout;
using test::on_device;

constexpr ReduceOp kOps[] = {ReduceOp::sum, ReduceOp::mean, ReduceOp::max, ReduceOp::min};

Shape reduced_shape(Shape shape, const std::vector<int>& dims) {
  for (int d : dims) shape[d] = 1;
  return shape;
}

void expect_reduced(ReduceOp op, const Array& x, const Array& y, double beta) {
  const Array device_y = on_device(y);
  host_kernels().reduce(op, x.view(), y.view(), beta);
  device_kernels().reduce(op, on_device(x).view(), device_y.view(), beta);
  test::expect_near(device_y, y, test::tolerance(x.dtype()));
}

struct Case {
  Shape shape;
  std::vector<int> dims;
};

// By a thread, a warp, a block and several blocks; along memory, across it and neither.
const Case kCases[] = {
    {{7, 5}, {1}},           {{7, 5}, {0}},           {{9, 100}, {1}},         {{2, 1600}, {1}},
    {{2, 1201}, {1}},        {{20000}, {0}},          {{2, 9001}, {1}},        {{40, 24}, {0}},
    {{333, 72}, {0}},        {{600, 3}, {0}},         {{6, 500}, {0}},         {{3, 40, 8}, {1}},
    {{3, 4, 5, 16}, {0, 2}}, {{3, 4, 5, 16}, {1, 3}}, {{2, 3, 24}, {0, 1, 2}}, {{4, 6}, {}},
    {{1, 6, 1}, {0, 2}},     {{3, 0}, {1}},           {{0, 3}, {1}},           {{1}, {0}}};

TEST(CudaReduce, IsTheCpusForEveryDtype) {
  for (const Case& c : kCases) {
    for (DType dtype : test::kDTypes) {
      const bool empty = c.shape.elements() == 0;
      for (ReduceOp op : kOps) {
        if (empty && !is_floating(dtype)) continue;
        const double beta = op == ReduceOp::sum || op == ReduceOp::min ? 0 : 1;
        const Array x = test::values(c.shape, dtype, is_floating(dtype) ? 0.5 : -4, 5);
        const Array y = test::values(reduced_shape(c.shape, c.dims), dtype, 0, 3, 2);
        if (beta == 0) host_kernels().fill(y.view(), std::nan(""));
        SCOPED_TRACE(c.shape.to_string() + " op " + std::to_string(static_cast<int>(op)));
        expect_reduced(op, x, y, beta);
      }
    }
  }
}

TEST(CudaReduce, ReadsAndWritesAnyLayout) {
  for (const Case& c : {Case{{6, 5, 40}, {2}}, Case{{6, 5, 40}, {0}}, Case{{6, 5, 40}, {0, 2}},
                        Case{{6, 5, 40}, {1}}, Case{{130, 48}, {0}}}) {
    for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::i32}) {
      for (Layout layout : test::kLayouts) {
        const Array x = laid(test::whole(c.shape, dtype), layout);
        for (Layout to : {Layout::dense, Layout::sliced}) {
          expect_reduced(ReduceOp::sum, x,
                         laid(test::whole(reduced_shape(c.shape, c.dims), dtype, 2), to), 1);
        }
      }
      const Array row = test::whole({c.shape[0], 1}, dtype).expand({c.shape[0], 20});
      expect_reduced(ReduceOp::sum, row, Array::zeros({c.shape[0], 1}, dtype), 0);
      expect_reduced(ReduceOp::sum, row, Array::zeros({1, 20}, dtype), 0);
    }
  }
}

// As bias gradients are: read ahead, in one part and in several, with rows and columns left over.
TEST(CudaReduce, SumsOfLongColumns) {
  for (const Shape& shape : {Shape{1024, 8}, {1500, 264}, {3001, 136}, {2500, 16}}) {
    for (DType dtype : test::kFloats) {
      for (Layout layout : {Layout::dense, Layout::off_by_one, Layout::sliced}) {
        for (double beta : {0, 1}) {
          SCOPED_TRACE(shape.to_string());
          const Array x = laid(test::values(shape, dtype, 0.5, 5), layout);
          const Array y = test::values({1, shape[1]}, dtype, 0, 3, 2);
          for (ReduceOp op : {ReduceOp::sum, ReduceOp::mean}) expect_reduced(op, x, y, beta);
        }
      }
    }
  }
}

// Sums of 16 bits in f32, as gradients of parameters are wanted.
TEST(CudaReduce, SumsOfLongColumnsInF32) {
  for (DType dtype : {DType::bf16, DType::f16}) {
    const Array x = test::values({3001, 136}, dtype, -1, 1);
    const Array exact = Array::zeros(x.shape(), DType::f32);
    host_kernels().copy(x.view(), exact.view());
    const Array y = test::values({1, 136}, DType::f32, 0, 3), device_y = on_device(y);
    host_kernels().reduce(ReduceOp::sum, exact.view(), y.view(), 1);
    device_kernels().reduce(ReduceOp::sum, on_device(x).view(), device_y.view(), 1);
    test::expect_near(device_y, y, 0x1p-20, 30);
  }
}

TEST(CudaReduce, NanAndInfinity) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (DType dtype : test::kFloats) {
    for (double special : {std::nan(""), infinity, -infinity}) {
      for (int dim : {0, 1}) {
        std::vector<double> numbers(40 * 50, 1.5);
        numbers[7 * 50 + 31] = special;
        const Array doubles = Array::from(numbers, {40, 50});
        const Array x = Array::empty({40, 50}, dtype);
        host_kernels().copy(doubles.view(), x.view());
        for (ReduceOp op : kOps) {
          expect_reduced(op, x, Array::zeros(reduced_shape({40, 50}, {dim}), dtype), 0);
        }
      }
    }
  }
}

TEST(CudaReduce, SumsOfManyFloatsStayPrecise) {
  const Array x = test::values({1 << 18}, DType::f32, 0.9, 1.1);
  const Array y = Array::zeros({1}, DType::f32);
  const Array device_y = on_device(y);
  host_kernels().reduce(ReduceOp::sum, x.view(), y.view(), 0);
  device_kernels().reduce(ReduceOp::sum, on_device(x).view(), device_y.view(), 0);
  test::expect_near(device_y, y, 0x1p-22);
}

TEST(CudaReduce, SumsDoNotDependOnTheBoundary) {
  const Array x = test::values({3, 4000}, DType::f32, -1, 1);
  const Array sums[2] = {Array::zeros({3, 1}, DType::f32, test::device()),
                         Array::zeros({3, 1}, DType::f32, test::device())};
  int i = 0;
  for (Layout layout : {Layout::dense, Layout::off_by_one}) {
    device_kernels().reduce(ReduceOp::sum, on_device(laid(x, layout)).view(), sums[i++].view(), 0);
  }
  test::expect_same(sums[0], test::on_host(sums[1]));
}

TEST(CudaArgReduce, FindsTheFirst) {
  const Case cases[] = {{{7, 5}, {1}},    {{7, 5}, {0}},    {{9, 100}, {1}}, {{2, 1600}, {1}},
                        {{2, 9001}, {1}}, {{20000}, {0}},   {{40, 24}, {0}}, {{3, 40, 8}, {1}},
                        {{0, 3}, {1}},    {{3, 1, 2}, {1}}, {{20, 30}, {0}}};
  for (const Case& c : cases) {
    for (DType dtype : test::kDTypes) {
      for (Layout layout : {Layout::dense, Layout::transposed, Layout::sliced}) {
        for (bool largest : {true, false}) {
          const Array x = laid(test::whole(c.shape, dtype), layout);
          const Array index = Array::zeros(reduced_shape(c.shape, c.dims), DType::i64);
          const Array device_index = on_device(index);
          host_kernels().arg_reduce(largest, x.view(), c.dims[0], index.view());
          device_kernels().arg_reduce(largest, on_device(x).view(), c.dims[0], device_index.view());
          test::expect_same(device_index, index);
        }
      }
    }
  }
}

TEST(CudaArgReduce, NanIsFirst) {
  for (DType dtype : test::kFloats) {
    for (int64_t n : {12, 700, 9000}) {
      std::vector<double> numbers(static_cast<size_t>(n), 1);
      numbers[5] = std::numeric_limits<double>::infinity();
      numbers[static_cast<size_t>(n - 2)] = numbers[static_cast<size_t>(n - 4)] = std::nan("");
      const Array doubles = Array::from(numbers, {n});
      const Array x = Array::empty({n}, dtype);
      host_kernels().copy(doubles.view(), x.view());
      for (bool largest : {true, false}) {
        const Array index = Array::zeros({1}, DType::i64, test::device());
        device_kernels().arg_reduce(largest, on_device(x).view(), 0, index.view());
        EXPECT_EQ(index.to_vector<int64_t>()[0], n - 4);
      }
    }
  }
}

void expect_recurrence(const Array& a, const Array& b, int dim, bool reverse, double relative) {
  const Array s = Array::zeros(b.shape(), b.dtype());
  const Array device_s = on_device(s);
  const Array device_a = a ? on_device(a) : Array();
  host_kernels().recurrence(a ? a.view() : View(), b.view(), dim, reverse, s.view());
  device_kernels().recurrence(a ? device_a.view() : View(), on_device(b).view(), dim, reverse,
                              device_s.view());
  test::expect_near(device_s, s, relative);
}

TEST(CudaRecurrence, IsTheCpusForEveryDtype) {
  const Case cases[] = {{{5, 7}, {1}},  {{5, 7}, {0}},     {{2, 600}, {1}}, {{300, 3}, {0}},
                        {{18000}, {0}}, {{3, 2, 40}, {1}}, {{0, 4}, {1}},   {{4, 1}, {1}}};
  for (const Case& c : cases) {
    for (DType dtype : test::kDTypes) {
      for (bool reverse : {false, true}) {
        for (bool scaled : {false, true}) {
          // Factors around 1 whose products neither vanish nor overflow in the integers.
          const bool floating = is_floating(dtype);
          const Array a =
              scaled ? test::values(c.shape, dtype, floating ? 0.8 : -2, floating ? 1.05 : 3, 2)
                     : Array();
          const Array b = test::values(c.shape, dtype, 0, 2, 1);
          expect_recurrence(a, b, c.dims[0], reverse,
                            test::tolerance(dtype, dtype == DType::f64 ? 4096 : 2));
        }
      }
    }
  }
}

TEST(CudaRecurrence, AnyLayout) {
  for (Layout layout : test::kLayouts) {
    for (const Case& c : {Case{{300, 20}, {0}}, Case{{20, 300}, {1}}, Case{{20, 300}, {0}}}) {
      const Array a = laid(test::values(c.shape, DType::f32, 0.8, 1, 1), layout);
      const Array b = laid(test::values(c.shape, DType::f32, -1, 1, 2), layout);
      for (bool reverse : {false, true}) expect_recurrence(a, b, c.dims[0], reverse, 1e-6);
    }
  }
}

// 0, 1e30, 1e30, …: each state is 0, though the product of the factors overflows.
TEST(CudaRecurrence, OverflowingFactorsKeepZero) {
  for (DType dtype : {DType::f64, DType::f32}) {
    const Array a = Array::full({3000}, 1e30, dtype);
    const Array b = Array::zeros({3000}, dtype);
    expect_recurrence(a, b, 0, false, 0);
    std::vector<double> factors(3000, 1e30);
    factors[700] = 0;
    const Array doubles = Array::from(factors, {3000});
    const Array with_zero = Array::empty({3000}, dtype);
    host_kernels().copy(doubles.view(), with_zero.view());
    expect_recurrence(with_zero, b, 0, false, 0);
    expect_recurrence(with_zero, b, 0, true, 0);
  }
}

// Products: each state is the one before times a factor. Infinity stays what it is until a zero or
// NaN comes, also where what follows vanishes or overflows by itself.
TEST(CudaRecurrence, InfiniteFactors) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  struct Change {
    int64_t begin, end;
    double value;
  };
  const std::vector<Change> cases[] = {
      {{50, 51, kInfinity}},
      {{50, 51, -kInfinity}, {400, 401, -2}},
      {{50, 51, kInfinity}, {500, 501, 0}},
      {{300, 301, 0}, {500, 501, 2}},
      {{300, 301, 0}, {500, 501, kInfinity}},
      {{50, 51, kInfinity}, {100, 600, 1e-30}},
      {{50, 51, -kInfinity}, {60, 70, 1e30}, {100, 600, 1e-30}},
      {{20, 40, 1e30}, {100, 600, -1e-30}},
      {{20, 40, 1e-30}, {100, 599, 1e30}},
      {{20, 40, 1e-30}, {590, 591, kInfinity}},
      {{0, 1, 0}, {50, 599, 1e30}},
      {{3, 4, std::nan("")}, {50, 51, kInfinity}},
  };
  for (int64_t n : {100, 600, 3000, 40'000}) {
    for (DType dtype : {DType::f64, DType::f32}) {
      for (const auto& changes : cases) {
        std::vector<double> factors(static_cast<size_t>(n), 1);
        for (const Change& change : changes) {
          for (int64_t i = change.begin; i < change.end; ++i) {
            factors[static_cast<size_t>(n == 40'000 ? i * 60 : i % n)] = change.value;
          }
        }
        const Array values = Array::from(factors, {n});
        const Array a = Array::empty({n}, dtype), b = Array::zeros({n}, dtype);
        host_kernels().copy(values.view(), a.view());
        host_kernels().copy(a.narrow(0, 0, 1).view(), b.narrow(0, 0, 1).view());
        expect_recurrence(a, b, 0, false, 1e-6);
      }
    }
  }
}

// As above in a line that several blocks share.
TEST(CudaRecurrence, OverflowingFactorsOfALongLineKeepZero) {
  for (double factor : {1e30, 1e-30}) {
    const Array a = Array::full({40'000}, factor, DType::f64);
    expect_recurrence(a, Array::zeros({40'000}, DType::f64), 0, false, 0);
  }
}

TEST(CudaRecurrence, NanReachesWhatComesAfterIt) {
  std::vector<double> factors(3000, 0.5);
  factors[1100] = std::nan("");
  const Array a = Array::from(factors, {3000});
  const Array b = Array::full({3000}, 1, DType::f64);
  expect_recurrence(a, b, 0, false, 1e-14);
  expect_recurrence(a, Array::zeros({3000}, DType::f64), 0, true, 1e-14);
}

TEST(CudaSumOfSquares, IsTheCpusAndDependsOnTheLengthAlone) {
  for (DType dtype : test::kFloats) {
    for (int64_t n : {0, 1, 7, 2048, 16385, 50001}) {
      const Array x = test::values({n}, dtype, -1, 1);
      const double expected = host_kernels().sum_of_squares(x.view());
      const double dense = device_kernels().sum_of_squares(on_device(x).view());
      EXPECT_NEAR(dense, expected, 1e-5 * expected);
      if (n == 0) continue;
      const Array moved = on_device(laid(x, Layout::off_by_one));
      EXPECT_EQ(device_kernels().sum_of_squares(moved.view()), dense);
    }
    const Array x = Array::full({3000}, std::numeric_limits<double>::infinity(), dtype);
    EXPECT_TRUE(std::isinf(device_kernels().sum_of_squares(on_device(x).view())));
  }
}

TEST(CudaSumOfSquares, OfSeveral) {
  const Array a = on_device(Array::full({100}, 2, DType::f32));
  const Array b = on_device(Array::full({20000}, 0.5, DType::bf16));
  View none = a.view();
  none.shape[0] = 0;
  const View all[] = {a.view(), none, b.view()};
  double sums[3];
  device_kernels().sums_of_squares(all, 3, sums);
  EXPECT_EQ(sums[0], 400);
  EXPECT_EQ(sums[1], 0);
  EXPECT_EQ(sums[2], 5000);
}

}  // namespace
}  // namespace lockstep
