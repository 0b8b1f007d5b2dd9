#pragma once

#include <cstdint>

#include "lockstep/runtime/cuda/access.h"
#include "lockstep/runtime/cuda/grid.h"

// Products of tiles in shared memory, of which every thread of a block has a part in registers.
namespace lockstep::cuda {

// Before loops over what a thread holds in registers, which have no addresses.
#if defined(__CUDACC__)
#define LOCKSTEP_UNROLL _Pragma("unroll")
#else
#define LOCKSTEP_UNROLL
#endif

// Sixteen bytes of values.
template <class C>
struct alignas(16) Vector {
  static constexpr int kSize = 16 / static_cast<int>(sizeof(C));
  C at[kSize];
};

// The threads of a block stand in 16 rows of 8. A tile is square, stored by rows; rows lie one
// vector further apart than they are long, so that neighbours are in other banks.
template <class C>
struct Tile {
  static constexpr int kThreads = 128;
  static constexpr int kThreadRows = 16, kThreadColumns = 8;
  static constexpr int kVector = Vector<C>::kSize;
  static constexpr int kEdge = 256 / static_cast<int>(sizeof(C));
  static constexpr int kPitch = kEdge + kVector;
  static constexpr int kElements = kEdge * kPitch;
  static constexpr int kBytes = kElements * static_cast<int>(sizeof(C));
  static constexpr int kRows = kEdge / kThreadRows;  // of a thread
  static constexpr int kColumns = kEdge / kThreadColumns;
};

// A thread's part of a tile.
template <class C>
struct TilePart {
  using T = Tile<C>;
  C at[T::kRows][T::kColumns];

  LOCKSTEP_DEVICE void clear() {
    LOCKSTEP_UNROLL
    for (int i = 0; i < T::kRows; ++i) {
      LOCKSTEP_UNROLL
      for (int j = 0; j < T::kColumns; ++j) at[i][j] = C(0);
    }
  }
  // Where at[i][…] lies.
  LOCKSTEP_DEVICE static int row(const Thread& t, int i) {
    return t.index() / T::kThreadColumns + T::kThreadRows * i;
  }
  // Where at[…][j] lies: of what multiply_rows made, and of what multiply_columns made.
  LOCKSTEP_DEVICE static int column(const Thread& t, int j) {
    return t.index() % T::kThreadColumns + T::kThreadColumns * j;
  }
  LOCKSTEP_DEVICE static int packed_column(const Thread& t, int j) {
    return column(t, j / T::kVector) * T::kVector + j % T::kVector;
  }

  // As made by multiply_rows, into shared memory.
  LOCKSTEP_DEVICE void put(const Thread& t, C* tile) const {
    LOCKSTEP_UNROLL
    for (int i = 0; i < T::kRows; ++i) {
      LOCKSTEP_UNROLL
      for (int j = 0; j < T::kColumns; ++j) tile[row(t, i) * T::kPitch + column(t, j)] = at[i][j];
    }
  }
};

template <class C>
LOCKSTEP_DEVICE Vector<C> vector_at(const C* tile, int row, int column) {
  return *reinterpret_cast<const Vector<C>*>(tile + row * Tile<C>::kPitch + column);
}

// out[m, n] += sum over i < inner of a[m, i] * b[n, i]. What lies between inner and the next whole
// vector is zero.
template <class C>
LOCKSTEP_DEVICE void multiply_rows(const Thread& t, const C* a, const C* b, int inner,
                                   TilePart<C>& out) {
  using T = Tile<C>;
  for (int i = 0; i < inner; i += T::kVector) {
    Vector<C> rows[T::kRows];
    LOCKSTEP_UNROLL
    for (int m = 0; m < T::kRows; ++m) rows[m] = vector_at(a, TilePart<C>::row(t, m), i);
    LOCKSTEP_UNROLL
    for (int n = 0; n < T::kColumns; ++n) {
      const Vector<C> column = vector_at(b, TilePart<C>::column(t, n), i);
      LOCKSTEP_UNROLL
      for (int m = 0; m < T::kRows; ++m) {
        LOCKSTEP_UNROLL
        for (int u = 0; u < T::kVector; ++u) out.at[m][n] += rows[m].at[u] * column.at[u];
      }
    }
  }
}

// out[m, n] += sum over i < inner of a[m, i] * b[i, n], n as packed_column says. What lies in a and
// b between inner and the next whole vector is zero.
template <class C>
LOCKSTEP_DEVICE void multiply_columns(const Thread& t, const C* a, const C* b, int inner,
                                      TilePart<C>& out) {
  using T = Tile<C>;
  for (int i = 0; i < inner; i += T::kVector) {
    Vector<C> rows[T::kRows];
    LOCKSTEP_UNROLL
    for (int m = 0; m < T::kRows; ++m) rows[m] = vector_at(a, TilePart<C>::row(t, m), i);
    LOCKSTEP_UNROLL
    for (int u = 0; u < T::kVector; ++u) {
      LOCKSTEP_UNROLL
      for (int n = 0; n < T::kColumns / T::kVector; ++n) {
        const Vector<C> columns = vector_at(b, i + u, TilePart<C>::column(t, n) * T::kVector);
        LOCKSTEP_UNROLL
        for (int m = 0; m < T::kRows; ++m) {
          LOCKSTEP_UNROLL
          for (int w = 0; w < T::kVector; ++w) {
            out.at[m][n * T::kVector + w] += rows[m].at[u] * columns.at[w];
          }
        }
      }
    }
  }
}

// A matrix in memory whose rows are `stride` elements apart.
struct TileSource {
  const void* data;
  DType dtype;
  bool packs;      // rows begin on 16-byte boundaries and are whole packs
  int64_t offset;  // of element [0, 0]
  int64_t stride;
  int rows, columns;
};

// The tile from [first_row, first_column] on into shared memory, zero beyond the matrix.
template <class C>
LOCKSTEP_DEVICE void load_tile(const Thread& t, const TileSource& from, int first_row,
                               int first_column, C* to) {
  using T = Tile<C>;
  if (from.packs) {
    constexpr int kPacks = T::kEdge / kPack;  // of a row
    for (int i = t.index(); i < T::kEdge * kPacks; i += T::kThreads) {
      const int row = i / kPacks, column = i % kPacks * kPack;
      C values[kPack] = {};
      if (first_row + row < from.rows && first_column + column < from.columns) {
        load_pack(from.data, from.dtype,
                  from.offset + (first_row + row) * from.stride + first_column + column, values);
      }
      auto* vectors = reinterpret_cast<Vector<C>*>(to + row * T::kPitch + column);
      LOCKSTEP_UNROLL
      for (int n = 0; n < kPack / T::kVector; ++n) {
        Vector<C> vector;
        LOCKSTEP_UNROLL
        for (int u = 0; u < T::kVector; ++u) vector.at[u] = values[n * T::kVector + u];
        vectors[n] = vector;
      }
    }
    return;
  }
  for (int i = t.index(); i < T::kEdge * T::kEdge; i += T::kThreads) {
    const int row = i / T::kEdge, column = i % T::kEdge;
    const bool inside = first_row + row < from.rows && first_column + column < from.columns;
    to[row * T::kPitch + column] =
        inside ? load<C>(from.data, from.dtype,
                         from.offset + (first_row + row) * from.stride + first_column + column)
               : C(0);
  }
}

}  // namespace lockstep::cuda
