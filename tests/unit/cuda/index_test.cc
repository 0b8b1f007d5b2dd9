#include <gtest/gtest.h>

#include <limits>

#include "support/device_layouts.h"

namespace lockstep {
namespace {

using test::device_kernels;
using test::host_kernels;
using test::laid;
using test::Layout;
using test::on_device;
using test::places;
using test::whole;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

void check_gather(const Array& x, int dim, const Array& index, const Array& out) {
  const Array on = on_device(out);
  device_kernels().gather(on_device(x).view(), dim, on_device(index).view(), on.view());
  host_kernels().gather(x.view(), dim, index.view(), out.view());
  test::expect_same(on, out);
}

void check_scatter_add(const Array& x, int dim, const Array& index, const Array& out) {
  const Array on = on_device(out);
  device_kernels().scatter_add(on_device(x).view(), dim, on_device(index).view(), on.view());
  host_kernels().scatter_add(x.view(), dim, index.view(), out.view());
  test::expect_same(on, out);
}

TEST(CudaIndex, GatherOfEveryDtypeDimensionAndLayout) {
  for (DType dtype : test::kDTypes) {
    for (Layout layout : test::kLayouts) {
      for (int dim = 0; dim < 3; ++dim) {
        Shape picked{5, 7, 32};
        picked[dim] = 11;
        const Array x = laid(whole({5, 7, 32}, dtype), layout);
        check_gather(x, dim, laid(places(picked, x.dim(dim)), layout), Array::zeros(picked, dtype));
        Shape column{1, 1, 1};
        column[dim] = 11;
        const Array same = places(column, x.dim(dim)).expand(picked);
        check_gather(x, dim, same, laid(Array::zeros(picked, dtype), layout));
      }
    }
  }
}

TEST(CudaIndex, GatherOfNothing) {
  check_gather(whole({4, 3}, DType::f32), 0, places({0, 3}, 4), Array::zeros({0, 3}, DType::f32));
}

TEST(CudaIndex, ScatterAddOfFewSteps) {
  for (DType dtype : test::kDTypes) {
    for (Layout layout : test::kLayouts) {
      for (int dim = 0; dim < 3; ++dim) {
        Shape added{5, 7, 30};
        added[dim] = 11;
        const Array out = laid(whole({5, 7, 30}, dtype), layout);
        check_scatter_add(laid(whole(added, dtype, 2), layout), dim, places(added, out.dim(dim)),
                          out);
      }
    }
  }
}

// Long lines, whose elements are sorted by where they go.
TEST(CudaIndex, ScatterAddOfManySteps) {
  for (DType dtype : test::kDTypes) {
    check_scatter_add(whole({3, 900}, dtype), 1, places({3, 900}, 7), whole({3, 7}, dtype, 2));
    check_scatter_add(laid(whole({900, 3}, dtype), Layout::transposed), 0, places({900, 3}, 2000),
                      laid(whole({2000, 3}, dtype, 2), Layout::sliced));
  }
  // One place for all of 9000.
  check_scatter_add(whole({9000}, DType::f32), 0, Array::zeros({9000}, DType::i64),
                    whole({3}, DType::f32));
  check_scatter_add(whole({400, 600}, DType::f32), 0, places({400, 600}, 50),
                    whole({50, 600}, DType::f32));
}

// Whole rows, by one index for all columns.
TEST(CudaIndex, ScatterAddOfRows) {
  for (DType dtype : test::kDTypes) {
    for (Layout layout : test::kLayouts) {
      const Array rows = places({500, 1}, 9).expand({500, 24});
      check_scatter_add(laid(whole({500, 24}, dtype), layout), 0, rows,
                        laid(whole({9, 24}, dtype, 2), layout));
    }
  }
  const Array strided = laid(places({500}, 9), Layout::sliced).unsqueeze(0).expand({4, 500});
  check_scatter_add(whole({4, 500}, DType::f32), 1, strided, whole({4, 9}, DType::f32, 2));
}

TEST(CudaIndex, Embedding) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    for (int64_t width : {1, 7, 8, 40, 768}) {
      for (Layout layout : {Layout::dense, Layout::off_by_one}) {
        const Array table = laid(whole({11, width}, dtype), layout);
        const Array ids = places({37}, 11), out = Array::zeros({37, width}, dtype);
        const Array on = on_device(out);
        device_kernels().embedding(on_device(table).view(), on_device(ids).view(), on.view());
        host_kernels().embedding(table.view(), ids.view(), out.view());
        test::expect_same(on, out);
      }
    }
  }
}

void check_embedding_backward(const Array& dy, const Array& ids, const Array& table, double beta) {
  const Array on = on_device(table);
  device_kernels().embedding_backward(on_device(dy).view(), on_device(ids).view(), on.view(), beta);
  host_kernels().embedding_backward(dy.view(), ids.view(), table.view(), beta);
  test::expect_same(on, table);
}

TEST(CudaIndex, EmbeddingBackward) {
  for (DType dtype : test::kFloats) {
    for (int64_t width : {1, 7, 16}) {
      for (int64_t count : {0, 1, 63, 64, 65, 700}) {
        for (double beta : {0.0, 1.0, 0.5}) {
          check_embedding_backward(whole({count, width}, dtype), places({count}, 50),
                                   whole({61, width}, dtype, 2), beta);
        }
      }
    }
  }
}

TEST(CudaIndex, EmbeddingBackwardBetaZeroIgnoresWhatWasThere) {
  for (DType dtype : test::kFloats) {
    check_embedding_backward(whole({100, 8}, dtype), places({100}, 9),
                             Array::full({12, 8}, kNaN, dtype), 0);
  }
}

// An id of a quarter of the rows, and one of all of them: several levels of sums.
TEST(CudaIndex, EmbeddingBackwardOfFrequentIds) {
  for (int64_t count : {4096, 8200}) {
    std::vector<int64_t> ids = places({count}, 1000).to_vector<int64_t>();
    for (size_t i = 0; i < ids.size(); i += 4) ids[i] = 17;
    check_embedding_backward(whole({count, 8}, DType::f32), Array::from(ids, {count}),
                             Array::zeros({1000, 8}, DType::f32), 0);
    check_embedding_backward(whole({count, 3}, DType::bf16), Array::zeros({count}, DType::i64),
                             whole({2, 3}, DType::bf16, 2), 1);
  }
}

TEST(CudaIndex, EmbeddingBackwardDoesNotDependOnTheRun) {
  const Array dy = on_device(test::values({5000, 16}, DType::f32, -1, 1));
  const Array ids = on_device(places({5000}, 20));
  const Array first = on_device(Array::zeros({20, 16}, DType::f32));
  const Array second = on_device(Array::zeros({20, 16}, DType::f32));
  device_kernels().embedding_backward(dy.view(), ids.view(), first.view(), 0);
  device_kernels().embedding_backward(dy.view(), ids.view(), second.view(), 0);
  test::expect_same(first, test::on_host(second));
}

TEST(CudaIndex, Extent) {
  for (int64_t count : {1, 31, 256, 257, 20000}) {
    const Array ids = test::values({count}, DType::i64, -1e12, 1e12, 5);
    int64_t expected[2], found[2];
    host_kernels().extent(ids.view(), &expected[0], &expected[1]);
    device_kernels().extent(on_device(ids).view(), &found[0], &found[1]);
    EXPECT_EQ(found[0], expected[0]) << count;
    EXPECT_EQ(found[1], expected[1]) << count;
  }
}

// A row of no, one and several entries.
TEST(CudaIndex, Resample) {
  const Array starts = Array::from<int64_t>({0, 0, 1, 4, 6}, {5});
  const Array columns = Array::from<int64_t>({2, 0, 1, 2, 3, 0}, {6});
  const Array weights = Array::from<double>({1, 0.25, 0.5, 0.25, -1, 2}, {6});
  const Array on_starts = on_device(starts), on_columns = on_device(columns);
  const Array on_weights = on_device(weights);
  for (DType dtype : test::kFloats) {
    for (Layout layout : test::kLayouts) {
      for (int dim = 1; dim < 4; ++dim) {
        Shape from{2, 16, 5, 6}, to{2, 16, 5, 6};
        from[dim] = dim == 1 ? 8 : 4;
        to[dim] = 4;
        const Array x = laid(test::values(from, dtype, -1, 1), layout);
        const Array y = laid(Array::zeros(to, dtype), layout), on = on_device(y);
        device_kernels().resample(on_device(x).view(), dim,
                                  {on_starts.view(), on_columns.view(), on_weights.view()},
                                  on.view());
        host_kernels().resample(x.view(), dim, {starts.view(), columns.view(), weights.view()},
                                y.view());
        test::expect_near(on, y, test::tolerance(dtype));
      }
    }
  }
}

}  // namespace
}  // namespace lockstep
