#pragma once

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/math/functor.h"

// Matrix products after Goto and van de Geijn ("Anatomy of high-performance matrix multiplication",
// 2008): blocks of both operands are packed into the order in which the innermost kernel reads
// them; the kernel keeps a tile of c in registers. Included by the per-level files only: internal
// linkage throughout.
//
// The level's file defines kVectorBytes and kTileRows before it includes this.
//
// Each element of c is one chain of additions in the order of k, cut every kInner values, whatever
// the sizes of a and b: a row's result does not depend on the rows beside it.
namespace lockstep::cpu {
namespace {

template <class T>
struct GemmSizes {
  typedef T Vector __attribute__((vector_size(kVectorBytes)));
  typedef T Unaligned __attribute__((vector_size(kVectorBytes), aligned(sizeof(T))));
  static constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));
  static constexpr int kTileColumns = 2 * kLanes;
  static constexpr int64_t kInner = 2048 / static_cast<int64_t>(sizeof(T));  // of k at a time
  static constexpr int64_t kRows = 16 * kTileRows;                           // of a at a time
};

// c tile = alpha * a panel @ b panel + beta * c tile, for kTileRows x kTileColumns.
template <class T>
LOCKSTEP_HD void gemm_tile(int64_t k, const T* a, const T* b, T* c, int64_t ldc, T alpha, T beta) {
  using Sizes = GemmSizes<T>;
  using Vector = typename Sizes::Vector;
  using Unaligned = typename Sizes::Unaligned;
  Vector left[kTileRows] = {};
  Vector right[kTileRows] = {};
  for (int64_t p = 0; p < k; ++p) {
    const Vector b0 = *reinterpret_cast<const Vector*>(b);
    const Vector b1 = *reinterpret_cast<const Vector*>(b + Sizes::kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kTileRows; ++i) {
      left[i] += a[i] * b0;
      right[i] += a[i] * b1;
    }
    a += kTileRows;
    b += Sizes::kTileColumns;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; ++i) {
    Unaligned* c0 = reinterpret_cast<Unaligned*>(c + i * ldc);
    Unaligned* c1 = reinterpret_cast<Unaligned*>(c + i * ldc + Sizes::kLanes);
    if (beta == 0) {
      *c0 = alpha * left[i];
      *c1 = alpha * right[i];
    } else {
      *c0 = alpha * left[i] + beta * *c0;
      *c1 = alpha * right[i] + beta * *c1;
    }
  }
}

// `count` vectors (rows of a, columns of b) of k values, in panels of `width` vectors with the
// vectors side by side; the last panel is filled up with zeros.
template <int kWidth, class T>
void gemm_pack(const T* from, int64_t vector_stride, int64_t k_stride, int64_t count, int64_t k,
               T* to) {
  for (int64_t start = 0; start < count; start += kWidth) {
    const int64_t width = count - start < kWidth ? count - start : kWidth;
    const T* panel = from + start * vector_stride;
    if (width == kWidth && vector_stride == 1) {
      for (int64_t p = 0; p < k; ++p) {
        for (int i = 0; i < kWidth; ++i) to[p * kWidth + i] = panel[p * k_stride + i];
      }
    } else {
      for (int64_t i = 0; i < kWidth; ++i) {
        const T* vector = panel + i * vector_stride;
        if (i < width) {
          for (int64_t p = 0; p < k; ++p) to[p * kWidth + i] = vector[p * k_stride];
        } else {
          for (int64_t p = 0; p < k; ++p) to[p * kWidth + i] = 0;
        }
      }
    }
    to += kWidth * k;
  }
}

// The tiles of one packed block of a with one packed block of b.
template <class T>
void gemm_block(int64_t m, int64_t n, int64_t k, const T* a, const T* b, T* c, int64_t ldc, T alpha,
                T beta) {
  constexpr int kColumns = GemmSizes<T>::kTileColumns;
  alignas(64) T edge[kTileRows * kColumns];
  for (int64_t j = 0; j < n; j += kColumns) {
    for (int64_t i = 0; i < m; i += kTileRows) {
      const T* left = a + i * k;
      const T* right = b + j * k;
      T* tile = c + i * ldc + j;
      if (m - i >= kTileRows && n - j >= kColumns) {
        gemm_tile(k, left, right, tile, ldc, alpha, beta);
        continue;
      }
      gemm_tile(k, left, right, edge, int64_t{kColumns}, alpha, T(0));
      const int64_t rows = m - i < kTileRows ? m - i : kTileRows;
      const int64_t columns = n - j < kColumns ? n - j : kColumns;
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t q = 0; q < columns; ++q) {
          const T value = edge[r * kColumns + q];
          tile[r * ldc + q] = beta == 0 ? value : value + beta * tile[r * ldc + q];
        }
      }
    }
  }
}

constexpr int64_t gemm_round_up(int64_t count, int64_t step) {
  return (count + step - 1) / step * step;
}

template <class T>
int64_t gemm_workspace(const Gemm& s) {
  using Sizes = GemmSizes<T>;
  const int64_t k = s.k < Sizes::kInner ? s.k : Sizes::kInner;
  const int64_t rows = s.m < Sizes::kRows ? s.m : Sizes::kRows;
  return k * (gemm_round_up(rows, kTileRows) + gemm_round_up(s.n, Sizes::kTileColumns)) + 64;
}

template <class T>
void gemm_loop(const Gemm& s, const T* a, const T* b, T* c, T* workspace) {
  using Sizes = GemmSizes<T>;
  const int64_t inner = s.k < Sizes::kInner ? s.k : Sizes::kInner;
  T* packed_b = workspace;
  T* packed_a = workspace + gemm_round_up(s.n, Sizes::kTileColumns) * inner;
  const T alpha = static_cast<T>(s.alpha);
  const int64_t a_row = s.transpose_a ? 1 : s.lda;
  const int64_t a_inner = s.transpose_a ? s.lda : 1;
  const int64_t b_inner = s.transpose_b ? 1 : s.ldb;
  const int64_t b_column = s.transpose_b ? s.ldb : 1;
  for (int64_t p = 0; p < s.k; p += inner) {
    const int64_t k = s.k - p < inner ? s.k - p : inner;
    const T beta = p == 0 ? static_cast<T>(s.beta) : T(1);
    gemm_pack<Sizes::kTileColumns>(b + p * b_inner, b_column, b_inner, s.n, k, packed_b);
    for (int64_t i = 0; i < s.m; i += Sizes::kRows) {
      const int64_t m = s.m - i < Sizes::kRows ? s.m - i : Sizes::kRows;
      gemm_pack<kTileRows>(a + i * a_row + p * a_inner, a_row, a_inner, m, k, packed_a);
      gemm_block(m, s.n, k, packed_a, packed_b, c + i * s.ldc, s.ldc, alpha, beta);
    }
  }
}

}  // namespace
}  // namespace lockstep::cpu
