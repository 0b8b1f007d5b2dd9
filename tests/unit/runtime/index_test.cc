// gather, scatter_add, nonzero, arg_reduce, sort and recurrence against plain loops in double.

#include "lockstep/runtime/ops/index.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "lockstep/runtime/ops/elementwise.h"
#include "unit/runtime/kernel_testing.h"

namespace lockstep::testing {
namespace {

constexpr DType kAll[] = {DType::f64, DType::f32, DType::bf16, DType::f16,
                          DType::i64, DType::i32, DType::u8,   DType::boolean};

double lowest_of(DType dtype) { return is_floating(dtype) || size_of(dtype) > 1 ? -9 : 0; }

// Small whole numbers, exact in every dtype; many of them equal.
Array whole(const Shape& shape, DType dtype, Layout layout = Layout::contiguous,
            unsigned seed = 1) {
  const Array values = random(shape, DType::f64, layout, lowest_of(dtype), 9, seed);
  const Array result = window(shape, dtype, layout);
  const Array dense = Array::from<int64_t>(values.to_vector<int64_t>(), shape);
  const Array rounded = kernels::cast(dense, dtype);
  if (layout == Layout::broadcast) {
    kernels::copy_into(rounded.narrow(0, 0, 1), result.narrow(0, 0, 1));
  } else {
    kernels::copy_into(rounded, result);
  }
  return result;
}

Array places(const Shape& shape, int64_t count, unsigned seed = 3) {
  std::mt19937_64 generator(seed);
  std::vector<int64_t> values(static_cast<size_t>(shape.elements()));
  for (int64_t& value : values) value = static_cast<int64_t>(generator() % count);
  return Array::from(values, shape);
}

// Row-major position in `shape`, with `dim` replaced.
int64_t moved(const Shape& index_shape, const Shape& shape, int dim, int64_t position,
              int64_t place) {
  int64_t result = 0, step = 1;
  for (int i = index_shape.rank() - 1; i >= 0; --i) {
    const int64_t here = i == dim ? place : position % index_shape[i];
    position /= index_shape[i];
    result += here * step;
    step *= shape[i];
  }
  return result;
}

TEST(Index, GatherAndScatterEqualPlainLoops) {
  for (const Shape& shape : {Shape{5, 7, 30}, Shape{400}, Shape{3, 600}}) {
    for (int dim = 0; dim < shape.rank(); ++dim) {
      Shape picked = shape;
      picked[dim] = 11;
      for (DType dtype : kAll) {
        for (Layout layout : kLayouts) {
          for (bool expanded : {false, true}) {
            Shape column = Shape::filled(shape.rank(), 1);
            column[dim] = 11;
            const Array index =
                expanded ? places(column, shape[dim]).expand(picked) : places(picked, shape[dim]);
            const Array x = whole(shape, dtype, layout);
            const auto from = doubles(x), at = doubles(index);
            const auto found = doubles(kernels::gather(x, dim, index));
            const Array added = whole(picked, dtype, layout, 5);
            const auto terms = doubles(added);
            std::vector<double> sums = doubles(x);
            for (size_t i = 0; i < found.size(); ++i) {
              const int64_t there =
                  moved(picked, shape, dim, static_cast<int64_t>(i), static_cast<int64_t>(at[i]));
              ASSERT_EQ(found[i], from[there]) << std::string(name_of(dtype));
              sums[there] += terms[i];
              if (dtype == DType::boolean) sums[there] = sums[there] != 0;
            }
            const Array out = kernels::copy(x);
            kernels::scatter_add(added, dim, index, out);
            ASSERT_EQ(doubles(out), sums) << std::string(name_of(dtype));
          }
        }
      }
    }
  }
}

TEST(Index, ScatterSumsDoNotDependOnThreadsAndKeepTheirDigitsIn16Bits) {
  const Array x = random({3000, 70}, DType::f32);
  const Array index = places({3000, 1}, 5).expand({3000, 70});
  std::vector<std::vector<double>> sums;
  for (int threads : {1, 2, 5}) {
    const Threads scope(threads);
    const Array out = Array::zeros({5, 70}, DType::f32);
    kernels::scatter_add(x, 0, index, out);
    sums.push_back(doubles(out));
  }
  EXPECT_EQ(sums[0], sums[1]);
  EXPECT_EQ(sums[0], sums[2]);
  const Array out = Array::zeros({1}, DType::bf16);
  kernels::scatter_add(Array::full({1000}, 1, DType::bf16), 0, places({1000}, 1), out);
  EXPECT_EQ(out.item(), 1000);
}

TEST(Index, IndicesAreChecked) {
  const Array x = Array::zeros({3, 4}, DType::f32);
  EXPECT_THROW(kernels::check_range("op", places({2}, 5, 1), 1), Error);
  EXPECT_THROW(kernels::check_range("op", Array::from<int64_t>({0, -1}, {2}), 5), Error);
  EXPECT_THROW(kernels::as_index("op", x, x), Error);
  EXPECT_THROW(kernels::gather(x, 0, places({2, 3}, 3)), Error);
  EXPECT_THROW(kernels::scatter_add(x, 0, places({2, 4}, 3), x), Error);
  const Array large = places({200'000}, 1000);
  kernels::fill(large.narrow(0, 123'456, 1), 1000);
  kernels::check_range("op", large, 1001);
  EXPECT_THROW(kernels::check_range("op", large, 1000), Error);
}

TEST(Index, NonzeroCountsAndStopsWhereTheRoomEnds) {
  for (int64_t n : {0, 1, 1000, 300'000}) {
    std::vector<uint8_t> values(static_cast<size_t>(n));
    std::vector<int64_t> expected;
    for (int64_t i = 0; i < n; ++i) {
      values[i] = i % 7 == 3 || i > n - 4;
      if (values[i]) expected.push_back(i);
    }
    const Array mask = kernels::cast(Array::from<uint8_t>(values, {n}), DType::boolean);
    EXPECT_EQ(kernels::nonzero("op", mask).to_vector<int64_t>(), expected);
    if (expected.size() < 2) continue;
    const Array room = Array::full({static_cast<int64_t>(expected.size())}, -1, DType::i64);
    const Array most = room.narrow(0, 0, room.dim(0) - 1);
    kernels::of(mask).nonzero(mask.view(), most.view());
    expected.back() = -1;
    EXPECT_EQ(room.to_vector<int64_t>(), expected);
  }
}

TEST(Index, ArgReduceFindsTheFirst) {
  for (const Shape& shape : {Shape{3, 5, 40}, Shape{2000}, Shape{300, 20}}) {
    for (int dim = 0; dim < shape.rank(); ++dim) {
      for (DType dtype : kAll) {
        for (Layout layout : kLayouts) {
          const Array x = whole(shape, dtype, layout);
          if (is_floating(dtype) && layout != Layout::broadcast) {
            Array one = x;
            for (int i = 0; i < x.rank(); ++i) one = one.narrow(i, x.dim(i) / 2, 1);
            kernels::fill(one, std::nan(""));
          }
          for (bool largest : {true, false}) {
            const Array index = kernels::arg_reduce("op", largest, x, dim);
            const auto found = doubles(index.transpose(dim, shape.rank() - 1));
            const auto rows = doubles(x.transpose(dim, shape.rank() - 1));
            const int64_t width = shape[dim];
            for (size_t row = 0; row < found.size(); ++row) {
              const double* values = &rows[row * width];
              int64_t best = 0;
              for (int64_t i = 1; i < width; ++i) {
                if (std::isnan(values[best])) break;
                const bool better = largest ? values[i] > values[best] : values[i] < values[best];
                if (better || std::isnan(values[i])) best = i;
              }
              ASSERT_EQ(found[row], static_cast<double>(best)) << std::string(name_of(dtype));
            }
          }
        }
      }
    }
  }
  const Array x = random({1'000'000}, DType::f32);
  kernels::fill(x.narrow(0, 700'000, 1), 5);
  kernels::fill(x.narrow(0, 900'000, 1), 5);
  EXPECT_EQ(kernels::arg_reduce("op", true, x, 0).item(), 700'000);
}

void expect_sorted(const Array& x, int64_t k, bool descending) {
  const int64_t width = x.dim(-1);
  const auto found =
      kernels::sort("op", x, x.rank() - 1, k, descending).template to_vector<int64_t>();
  const auto values = doubles(x);
  for (int64_t row = 0; row < x.elements() / width; ++row) {
    std::vector<int64_t> expected(static_cast<size_t>(width));
    std::iota(expected.begin(), expected.end(), 0);
    const double* at = &values[row * width];
    std::stable_sort(expected.begin(), expected.end(), [&](int64_t i, int64_t j) {
      const double a = descending ? at[j] : at[i], b = descending ? at[i] : at[j];
      return std::isnan(b) ? !std::isnan(a) : a < b;
    });
    expected.resize(static_cast<size_t>(k));
    ASSERT_TRUE(std::equal(expected.begin(), expected.end(), found.begin() + row * k))
        << std::string(name_of(x.dtype())) << " k " << k << " of " << width;
  }
}

TEST(Index, SortIsStableWithNanLast) {
  for (int64_t width : {1, 2, 17, 700, 5000}) {
    for (DType dtype : kAll) {
      for (bool equal : {true, false}) {
        const Shape shape{3, width};
        const Array x = equal || !is_floating(dtype) ? whole(shape, dtype, Layout::contiguous, 2)
                                                     : random(shape, dtype);
        if (is_floating(dtype)) {
          set(x.narrow(1, width / 2, 1), {std::nan(""), -INFINITY, INFINITY});
          set(x.narrow(1, width / 3, 1), {0.0, -0.0, -std::nan("")});
        }
        for (bool descending : {false, true}) {
          for (int64_t k : {int64_t{1}, width / 70, width / 3, width / 3 * 2, width}) {
            expect_sorted(x, k, descending);
          }
        }
      }
    }
  }
  const Array extremes = Array::from<int64_t>(
      {0, std::numeric_limits<int64_t>::max(), -1, std::numeric_limits<int64_t>::min()}, {4});
  EXPECT_EQ(kernels::sort("op", extremes, 0, 4, false).to_vector<int64_t>(),
            (std::vector<int64_t>{3, 2, 0, 1}));
}

TEST(Index, RecurrenceEqualsPlainLoops) {
  for (const Shape& shape : {Shape{4, 6, 30}, Shape{300}, Shape{700, 3}}) {
    for (int dim = 0; dim < shape.rank(); ++dim) {
      for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::i64, DType::i32}) {
        for (Layout layout : kLayouts) {
          for (bool scaled : {false, true}) {
            for (bool reverse : {false, true}) {
              const bool real = is_floating(dtype);
              const Array b = real ? random(shape, dtype, layout) : whole(shape, dtype, layout);
              const Array a = !scaled ? Array()
                              : real  ? random(shape, dtype, layout, -1, 1, 7)
                                      : kernels::cast(places(shape, 2), dtype);
              const Array s = kernels::recurrence(a, b, dim, reverse);
              const int last = shape.rank() - 1;
              const auto terms = doubles(b.transpose(dim, last));
              const auto factors = a ? doubles(a.transpose(dim, last)) : terms;
              const auto found = doubles(s.transpose(dim, last));
              const int64_t width = shape[dim];
              std::vector<double> expected(found.size());
              for (size_t row = 0; row < found.size() / width; ++row) {
                double running = 0;
                for (int64_t i = 0; i < width; ++i) {
                  const size_t at = row * width + (reverse ? width - 1 - i : i);
                  running = terms[at] + (scaled ? factors[at] : 1.0) * running;
                  expected[at] = running;
                }
              }
              expect_near(found, expected, relative_bound(dtype), 1e-12,
                          std::string(name_of(dtype)));
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace lockstep::testing
