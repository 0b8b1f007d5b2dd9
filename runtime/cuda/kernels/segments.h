#pragma once

#include <cstdint>

#include "lockstep/runtime/cuda/kernels/elements.h"
#include "lockstep/runtime/cuda/kernels/operand.h"

// Sums of the rows that share a key, out[key] += row, where the rows have been put in the order of
// their keys. Rows are cut into chunks of a fixed size, and a thread sums one chunk of some
// columns. A key that begins and ends within a chunk goes to `out`; what the first and the last key
// of a chunk sum to are two rows of the next level, whose keys are in order again. So a key that
// all rows share costs as much as any, and the order of additions depends on the keys alone.
namespace lockstep::cuda {

inline constexpr int64_t kSegmentChunk = 64;

// Rows whose columns are those of x and out: `columns` counts packs or elements.
struct ColumnLayout {
  int64_t x_step, out_step;  // from row to row, from key to key
  Strided<2> columns;        // of x and out

  LOCKSTEP_HD void start(uint32_t column, int64_t (&at)[2]) const { columns.offsets(column, at); }
  LOCKSTEP_HD int64_t row(int64_t row) const { return row * x_step; }
  LOCKSTEP_HD int64_t place(int64_t key) const { return key * out_step; }
};

// Rows of one element: element `row` of x in row-major order; the key is the line of `out` (its
// place outside the dimension that index chooses) times the size of the dimension, and the place in
// it.
struct ElementLayout {
  Strided<1> x, lines;
  int64_t size, out_step;

  LOCKSTEP_HD void start(uint32_t, int64_t (&at)[2]) const { at[0] = at[1] = 0; }
  LOCKSTEP_HD int64_t row(int64_t row) const {
    int64_t at[1];
    x.offsets(static_cast<uint32_t>(row), at);
    return at[0];
  }
  LOCKSTEP_HD int64_t place(int64_t key) const {
    const int64_t line = key / size;
    int64_t at[1];
    lines.offsets(static_cast<uint32_t>(line), at);
    return at[0] + (key - line * size) * out_step;
  }
};

template <class C, int kWide, class Layout>
struct SegmentsBody {
  static constexpr int kAhead = 4;  // rows that are on their way at once
  Operand x, out;
  const int64_t* keys;
  const int64_t* order;  // the row of each key; null: x is [rows, columns] of C, in order
  int64_t rows;
  Divisor columns;  // in units of kWide
  C beta;           // of out
  Layout layout;
  C* next;  // [2 * chunks, columns] and its keys; null at the last level
  int64_t* next_keys;

  LOCKSTEP_HD void one(uint32_t index) const {
    const uint32_t chunk = columns.divide(index), column = index - chunk * columns.value;
    const int64_t begin = chunk * kSegmentChunk;
    const int64_t end = begin + kSegmentChunk < rows ? begin + kSegmentChunk : rows;
    int64_t start[2];
    layout.start(column, start);
    C sums[kWide] = {};
    int64_t key = keys[begin];
    bool first = next != nullptr;
    for (int64_t row = begin; row < end; row += kAhead) {
      C values[kAhead][kWide];
      int64_t key_of[kAhead];
      for (int i = 0; i < kAhead; ++i) {
        if (row + i < end) {
          key_of[i] = keys[row + i];
          read(row + i, column, start[0], values[i]);
        }
      }
      for (int i = 0; i < kAhead; ++i) {
        if (row + i >= end) break;
        if (key_of[i] != key) {
          first ? pass_on(2 * chunk, column, key, sums) : add_to_out(key, start[1], sums);
          first = false;
          key = key_of[i];
          for (C& sum : sums) sum = C(0);
        }
        for (int j = 0; j < kWide; ++j) sums[j] += values[i][j];
      }
    }
    if (next == nullptr) return add_to_out(key, start[1], sums);
    pass_on(2 * chunk + (first ? 0 : 1), column, key, sums);
    const C zeros[kWide] = {};
    if (first) pass_on(2 * chunk + 1, column, key, zeros);
  }

 private:
  LOCKSTEP_HD void read(int64_t row, uint32_t column, int64_t start, C (&values)[kWide]) const {
    const int64_t at =
        order == nullptr ? (row * columns.value + column) * kWide : start + layout.row(order[row]);
    if constexpr (kWide == kPack) {
      load_pack(x.data, x.dtype, at, values);
    } else {
      values[0] = x.get<C>(at);
    }
  }
  LOCKSTEP_HD void pass_on(uint32_t row, uint32_t column, int64_t key,
                           const C (&sums)[kWide]) const {
    const int64_t at = (int64_t{row} * columns.value + column) * kWide;
    for (int j = 0; j < kWide; ++j) next[at + j] = sums[j];
    if (column == 0) next_keys[row] = key;
  }
  LOCKSTEP_HD void add_to_out(int64_t key, int64_t start, const C (&sums)[kWide]) const {
    const int64_t at = start + layout.place(key);
    C values[kWide] = {};
    if constexpr (kWide == kPack) {
      if (beta != C(0)) load_pack(out.data, out.dtype, at, values);
      for (int j = 0; j < kWide; ++j) values[j] = sums[j] + beta * values[j];
      store_pack(out.data, out.dtype, at, values);
    } else {
      if (beta != C(0)) values[0] = out.get<C>(at);
      out.put<C>(at, sums[0] + beta * values[0]);
    }
  }
};

// out[key] = beta * out[key] + the sum of the key's rows, for the keys that have any.
template <class C, int kWide, class Layout>
void sum_segments(const View& x, const View& out, const int64_t* keys, const int64_t* order,
                  int64_t rows, int64_t columns, double beta, const Layout& layout, Queue& queue) {
  const int64_t chunks = (rows + kSegmentChunk - 1) / kSegmentChunk;
  const int64_t next_rows = chunks == 1 ? 0 : 2 * chunks;
  const Scratch next(queue, static_cast<size_t>(next_rows * columns * kWide) * sizeof(C));
  const Scratch next_keys(queue, static_cast<size_t>(next_rows) * sizeof(int64_t));
  launch_elements(
      SegmentsBody<C, kWide, Layout>{Operand(x), Operand(out), keys, order, rows,
                                     Divisor(static_cast<uint32_t>(columns)), static_cast<C>(beta),
                                     layout, next.as<C>(), next_keys.as<int64_t>()},
      chunks * columns, queue);
  if (chunks == 1) return;
  View sums;
  sums.data = next.as<C>();
  sums.dtype = dtype_of<C>;
  sum_segments<C, kWide>(sums, out, next_keys.as<int64_t>(), nullptr, next_rows, columns, beta,
                         layout, queue);
}

}  // namespace lockstep::cuda
