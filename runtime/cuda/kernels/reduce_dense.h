#pragma once

#include <cstdint>

#include "lockstep/runtime/cuda/kernels/reduce_bodies.h"
#include "lockstep/runtime/cuda/kernels/row_values.h"

namespace lockstep::cuda {

// Sums down the columns of a dense f32 or 16-bit matrix with rows on 16-byte boundaries, as bias
// gradients are: ColumnsBody of one dtype, which reads kAhead rows before it adds them. Parts go to
// partials[part][column].
template <class T>
struct DenseColumnsBody {
  static constexpr int kThreads = 256;
  static constexpr bool kCooperative = true;
  static constexpr int kItems = kPerSixteen<T>;
  static constexpr int kAhead = 8;
  static constexpr int kRowLanes = 32;
  static constexpr int kColumnLanes = kThreads / kRowLanes;
  static constexpr int kTile = kColumnLanes * kItems;
  static constexpr int kSharedBytes = kThreads * kItems * static_cast<int>(sizeof(float));
  Reduction<float> r;
  uint32_t tiles = 1;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const auto block = static_cast<uint32_t>(t.block());
    const uint32_t part = block / tiles, tile = block - part * tiles;
    const int64_t begin = part * r.part_length;
    const int64_t end = begin + r.part_length < r.count ? begin + r.part_length : r.count;
    const int lane = t.index() % kColumnLanes, row_lane = t.index() / kColumnLanes;
    const uint32_t first = tile * kTile + static_cast<uint32_t>(lane * kItems);
    float totals[1][kItems] = {};
    if (first < r.outputs) add_rows(first, begin + row_lane, end, totals);

    auto* shared = t.shared<float>();  // [row lane][item][column lane]
    unrolled<1, kItems>(
        [&](int, int j) { shared[(row_lane * kItems + j) * kColumnLanes + lane] = totals[0][j]; });
    t.sync();
    if (t.index() >= kTile) return;
    const uint32_t column = tile * kTile + static_cast<uint32_t>(t.index());
    if (column >= r.outputs) return;
    const int at = t.index() % kItems * kColumnLanes + t.index() / kItems;
    float total = 0;
    for (int i = 0; i < kRowLanes; ++i) total += shared[i * kItems * kColumnLanes + at];
    if (r.partials != nullptr) {
      r.partials[int64_t{part} * r.outputs + column] = total;
    } else {
      r.finish(column, total);
    }
  }

 private:
  LOCKSTEP_DEVICE void add_rows(uint32_t column, int64_t row, int64_t end,
                                float (&totals)[1][kItems]) const {
    const int64_t stride = r.reduced.strides[0];
    const T* from = static_cast<const T*>(r.x.data) + column;
    for (; row + (kAhead - 1) * kRowLanes < end; row += kAhead * kRowLanes) {
      Sixteen packs[kAhead];
      unrolled<kAhead, 1>([&](int a, int) {
        packs[a] = *reinterpret_cast<const Sixteen*>(from + (row + a * kRowLanes) * stride);
      });
      unrolled<kAhead, 1>([&](int a, int) { add(packs[a], totals); });
    }
    for (; row < end; row += kRowLanes) {
      add(*reinterpret_cast<const Sixteen*>(from + row * stride), totals);
    }
  }
  LOCKSTEP_DEVICE static void add(const Sixteen& pack, float (&totals)[1][kItems]) {
    T values[kItems];
    __builtin_memcpy(static_cast<void*>(values), &pack, sizeof pack);
    unrolled<1, kItems>([&](int, int j) { totals[0][j] += value_of(values[j]); });
  }
};

}  // namespace lockstep::cuda
