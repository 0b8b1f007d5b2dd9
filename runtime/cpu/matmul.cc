#include "lockstep/runtime/cpu/matmul.h"

#include <algorithm>
#include <bit>

#include "lockstep/runtime/cpu/convert.h"
#include "lockstep/runtime/cpu/elementwise.h"
#include "lockstep/runtime/cpu/gemm.h"
#include "lockstep/runtime/cpu/reduce.h"
#include "lockstep/runtime/cpu/scratch.h"
#include "lockstep/runtime/cpu/windows.h"
#include "lockstep/runtime/parallel.h"

namespace lockstep::cpu {

namespace {

constexpr int64_t kGrain = 256 * 1024;  // multiplications worth a thread

// How the last two dimensions lie in memory: rows `leading` elements apart, or columns.
struct Layout {
  bool transposed = false;
  int64_t leading = 1;
};

Layout layout_of(const View& view) {
  const int64_t rows = view.shape[view.rank - 2];
  const int64_t columns = view.shape[view.rank - 1];
  const int64_t row_stride = view.strides[view.rank - 2];
  const int64_t column_stride = view.strides[view.rank - 1];
  const bool by_rows = (columns == 1 || column_stride == 1) && (rows == 1 || row_stride >= columns);
  if (by_rows) return {false, rows == 1 ? std::max<int64_t>(1, columns) : row_stride};
  return {true, columns == 1 ? std::max<int64_t>(1, rows) : column_stride};
}

View leading_dims(const View& view) {
  View batch = view;
  batch.rank = view.rank - 2;
  return batch;
}

View transposed(const View& view) {
  View result = view;
  std::swap(result.shape[view.rank - 1], result.shape[view.rank - 2]);
  std::swap(result.strides[view.rank - 1], result.strides[view.rank - 2]);
  return result;
}

// Merges the last batch dimension into the rows where all of it is multiplied by one b.
bool fold_batch(View& a, View& b, View& c) {
  if (c.rank < 3 || b.strides[b.rank - 3] != 0) return false;
  const int batch = c.rank - 3;
  const int row = c.rank - 2;
  const auto folds = [&](const View& view) {
    return view.strides[row + 1] == 1 && view.strides[batch] == view.strides[row] * view.shape[row];
  };
  if (!folds(a) || !folds(c)) return false;
  for (View* view : {&a, &c}) {
    view->shape[row] *= view->shape[batch];
    view->shape[batch] = 1;
    view->strides[batch] = 0;
  }
  b.shape[batch] = 1;
  return true;
}

// The tiles of one product are cut by its shape alone, so a result does not depend on how many
// threads there are.
struct Tiles {
  int64_t rows, columns, down, across;
};

Tiles tiles_of(const Gemm& g) {
  constexpr int64_t kSide = 768;
  constexpr int64_t kStep = 32;
  const auto side = [](int64_t extent) {
    // Powers of two: the usual thread counts share them evenly.
    const auto count =
        static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>((extent + kSide - 1) / kSide)));
    const int64_t even = (extent + count - 1) / count;
    return (even + kStep - 1) / kStep * kStep;
  };
  Tiles t{side(g.m), side(g.n), 0, 0};
  if (t.rows >= g.m && t.columns >= g.n && g.m * g.n * g.k >= 2 * kGrain) {
    // One tile would leave the other threads without work.
    int64_t& longer = g.m >= g.n ? t.rows : t.columns;
    const int64_t extent = std::max(g.m, g.n);
    longer = std::max(kStep, ((extent + 1) / 2 + kStep - 1) / kStep * kStep);
  }
  t.down = (g.m + t.rows - 1) / t.rows;
  t.across = (g.n + t.columns - 1) / t.columns;
  return t;
}

template <class T, class Result>
void run_tile(const Loops& loops, const Gemm& whole, const Tiles& tiles, int64_t tile, const T* a,
              const T* b, Result* c) {
  const int64_t row = tile / tiles.across * tiles.rows;
  const int64_t column = tile % tiles.across * tiles.columns;
  Gemm part = whole;
  part.m = std::min(tiles.rows, whole.m - row);
  part.n = std::min(tiles.columns, whole.n - column);
  gemm(loops, part, a + (whole.transpose_a ? row : row * whole.lda),
       b + (whole.transpose_b ? column * whole.ldb : column), c + row * whole.ldc + column);
}

template <class T, class Result = T>
void products(const Loops& loops, const View& a, const View& b, const View& c, double beta) {
  const Layout la = layout_of(a);
  const Layout lb = layout_of(b);
  const Layout lc = layout_of(c);
  const Gemm g{.m = c.shape[c.rank - 2],
               .n = c.shape[c.rank - 1],
               .k = a.shape[a.rank - 1],
               .transpose_a = la.transposed,
               .transpose_b = lb.transposed,
               .lda = la.leading,
               .ldb = lb.leading,
               .ldc = lc.leading,
               .beta = beta};
  const Tiles tiles = tiles_of(g);
  const int64_t per_product = tiles.down * tiles.across;
  const View batch_a = leading_dims(a);
  const View batch_b = leading_dims(b);
  const View batch_c = leading_dims(c);
  const Windows batches({&batch_a, &batch_b, &batch_c});
  const int64_t work = std::max<int64_t>(1, g.m * g.n * g.k / per_product);
  parallel_for(
      batches.elements * per_product, std::max<int64_t>(1, kGrain / work),
      [&](int64_t begin, int64_t end) {
        Cursor at(batches, begin / per_product);
        for (int64_t task = begin; task < end; ++task) {
          run_tile(loops, g, tiles, task % per_product, reinterpret_cast<T*>(at.pointer(0)),
                   reinterpret_cast<T*>(at.pointer(1)), reinterpret_cast<Result*>(at.pointer(2)));
          if ((task + 1) % per_product == 0) at.advance(1);
        }
      });
}

// Integers are exact whatever the order: no tiles, no blocks.
void integer_products(const Loops& loops, const View& a, const View& b, const View& c,
                      double beta) {
  const Copy<int64_t> wide_a(loops, a);
  const Copy<int64_t> wide_b(loops, b);
  Copy<int64_t> wide_c(loops, c);
  const int64_t m = c.shape[c.rank - 2];
  const int64_t n = c.shape[c.rank - 1];
  const int64_t k = a.shape[a.rank - 1];
  const uint64_t keep = static_cast<uint64_t>(static_cast<int64_t>(beta));
  parallel_for(c.elements() / n, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, n * k)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t row = begin; row < end; ++row) {
                   // Unsigned: overflow wraps.
                   const int64_t* left = wide_a.data() + row * k;
                   const int64_t* right = wide_b.data() + row / m * k * n;
                   int64_t* out = wide_c.data() + row * n;
                   for (int64_t j = 0; j < n; ++j) {
                     uint64_t sum = keep * static_cast<uint64_t>(out[j]);
                     for (int64_t p = 0; p < k; ++p) {
                       sum +=
                           static_cast<uint64_t>(left[p]) * static_cast<uint64_t>(right[p * n + j]);
                     }
                     out[j] = static_cast<int64_t>(sum);
                   }
                 }
               });
  wide_c.write_back();
}

// 16-bit floats: an f32 product around which operands and result are converted.
void short_products(const Loops& loops, const View& a, const View& b, const View& c, double beta) {
  const Copy<float> wide_a(loops, a);
  const Copy<float> wide_b(loops, b);
  if (c.dtype == DType::f32) return products<float>(loops, wide_a.view(), wide_b.view(), c, beta);
  Copy<float> wide_c(loops, c);
  products<float>(loops, wide_a.view(), wide_b.view(), wide_c.view(), beta);
  wide_c.write_back();
}

View as_row(View vector) {
  vector.rank = 2;
  vector.shape[1] = vector.shape[0];
  vector.strides[1] = vector.strides[0];
  vector.shape[0] = 1;
  return vector;
}

}  // namespace

void matmul(const Loops& loops, const View& a, const View& b, const View& c, double beta) {
  if (c.elements() == 0) return;
  if (a.shape[a.rank - 1] == 0) {
    if (beta == 0) return fill(loops, c, 0);
    return scale_add(loops, beta, c, 0, c);
  }
  if (layout_of(c).transposed) {
    return matmul(loops, transposed(b), transposed(a), transposed(c), beta);
  }
  View left = a;
  View right = b;
  View out = c;
  fold_batch(left, right, out);
  switch (a.dtype) {
    case DType::f32: return products<float>(loops, left, right, out, beta);
    case DType::f64: return products<double>(loops, left, right, out, beta);
    case DType::bf16:
      if (multiplies_in(DType::bf16)) {
        return c.dtype == DType::f32 ? products<BFloat16, float>(loops, left, right, out, beta)
                                     : products<BFloat16>(loops, left, right, out, beta);
      }
      [[fallthrough]];
    case DType::f16: return short_products(loops, left, right, out, beta);
    default: return integer_products(loops, left, right, out, beta);
  }
}

void linear(const Loops& loops, const View& x, const View& w, const View& bias, const View& y) {
  if (bias.data != nullptr) {
    View each_row = y;
    each_row.data = bias.data;
    each_row.strides[0] = 0;
    each_row.strides[1] = bias.strides[0];
    copy(loops, each_row, y);
  }
  matmul(loops, x, transposed(w), y, bias.data == nullptr ? 0 : 1);
}

void linear_activation(const Loops& loops, const View& x, const View& w, const View& bias,
                       Elementwise op, const View& before, const View& y) {
  const View& sum = before.data == nullptr ? y : before;
  linear(loops, x, w, bias, sum);
  unary(loops, op, sum, y);
}

void linear_activation_backward(const Loops& loops, const View& dy, const View& w, Elementwise op,
                                const View& before, const View& d, const View& dbias, double beta) {
  matmul(loops, dy, w, d, 0);
  unary_backward(loops, op, before, {}, d, d, 0);
  if (dbias.data != nullptr) reduce(loops, ReduceOp::sum, d, as_row(dbias), beta);
}

void linear_weight_gradient(const Loops& loops, const View& dy, const View& x, const View& dw,
                            const View& dbias, const double beta[2]) {
  matmul(loops, transposed(dy), x, dw, beta[0]);
  if (dbias.data != nullptr) reduce(loops, ReduceOp::sum, dy, as_row(dbias), beta[1]);
}

}  // namespace lockstep::cpu
