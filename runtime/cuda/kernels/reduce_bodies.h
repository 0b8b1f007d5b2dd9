#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "lockstep/runtime/cuda/grid.h"
#include "lockstep/runtime/cuda/kernels/rows.h"
#include "lockstep/runtime/cuda/kernels/spans.h"

// The kernels of reductions.
namespace lockstep::cuda {

struct JoinSum {
  template <class C>
  LOCKSTEP_HD static C initial() {
    return C(0);
  }
  template <class C>
  LOCKSTEP_HD C operator()(C a, C b) const {
    return a + b;
  }
};

// NaN above all.
struct JoinMaximum {
  template <class C>
  LOCKSTEP_HD static C initial() {
    if constexpr (std::is_integral_v<C>) return std::numeric_limits<C>::min();
    return -std::numeric_limits<C>::infinity();
  }
  template <class C>
  LOCKSTEP_HD C operator()(C a, C b) const {
    return (a > b) | (a != a) ? a : b;
  }
};

// NaN below all.
struct JoinMinimum {
  template <class C>
  LOCKSTEP_HD static C initial() {
    if constexpr (std::is_integral_v<C>) return std::numeric_limits<C>::max();
    return std::numeric_limits<C>::infinity();
  }
  template <class C>
  LOCKSTEP_HD C operator()(C a, C b) const {
    return (a < b) | (a != a) ? a : b;
  }
};

// Of a power of two of values, as a tree.
template <class C, int N, class Join>
LOCKSTEP_HD C join_all(const C (&values)[N], const Join& join) {
  if constexpr (N == 1) {
    return values[0];
  } else {
    C pairs[N / 2];
    for (int i = 0; i < N / 2; ++i) pairs[i] = join(values[i], values[i + N / 2]);
    return join_all(pairs, join);
  }
}

// What becomes of a result: y = result / divisor + beta * y.
struct Finish {
  Operand y;
  Span places;
  double beta = 0;
  bool divides = false;
  double divisor = 1;

  template <class C>
  LOCKSTEP_HD void operator()(int64_t output, C value) const {
    if (divides) value = static_cast<C>(quotient(value));
    const int64_t at = places.offset(output);
    if (beta != 0) {
      if constexpr (std::is_same_v<C, float>) {
        value += static_cast<float>(beta) * y.get<float>(at);
      } else {
        value += static_cast<C>(beta * static_cast<double>(y.get<C>(at)));
      }
    }
    y.put(at, value);
  }

 private:
  LOCKSTEP_HD float quotient(float value) const { return value / static_cast<float>(divisor); }
  LOCKSTEP_HD double quotient(double value) const { return value / divisor; }
  LOCKSTEP_HD double quotient(int64_t value) const { return static_cast<double>(value) / divisor; }
};

// Elements of which each thread has one total; they are joined in a tree at the end.
template <class C>
inline constexpr int kLanesOf = std::is_same_v<C, float>    ? 8
                                : std::is_same_v<C, double> ? 2
                                                            : 4;

template <class C>
struct Reduction {
  Operand x;
  Span kept, reduced;
  uint32_t outputs = 0;
  int64_t count = 0;  // reduced to one
  bool packed = false;
  // Each part of an output's elements is reduced by itself.
  uint32_t parts = 1;
  int64_t part_length = 0;
  C* partials = nullptr;  // where parts go; null: there is one
  Finish finish;
};

// An output by kTeam threads, along memory where that is what is reduced. Parts go to
// partials[output][part].
template <class Join, class C, int kTeam>
struct RowsBody {
  static constexpr int kThreads = 256;
  static constexpr bool kCooperative = kTeam > 1;
  static constexpr int kItems = kLanesOf<C>;
  static constexpr int kAhead = kTeam == kThreads ? 4 : 1;  // loads in flight
  static constexpr int kSharedBytes = kTeam == kThreads ? across_block_bytes<C>(kThreads) : 0;
  Reduction<C> r;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const uint32_t task = static_cast<uint32_t>(t.block()) * (kThreads / kTeam) +
                          static_cast<uint32_t>(t.index() / kTeam);
    const uint32_t output = task / r.parts;
    if (output >= r.outputs) return;
    const int64_t begin = (task - output * r.parts) * r.part_length;
    const int64_t end = begin + r.part_length < r.count ? begin + r.part_length : r.count;
    const Join join;
    C total = own(t.index() % kTeam, r.kept.offset(output), begin, end);
    if constexpr (kTeam == kWarp) total = across_warp(t, total, join);
    if constexpr (kTeam == kThreads) {
      total = across_block<kThreads>(t, total, t.template shared<C>(), join);
    }
    if (t.index() % kTeam != 0) return;
    if (r.partials != nullptr) {
      r.partials[task] = total;
    } else {
      r.finish(output, total);
    }
  }

 private:
  // What one thread of the team finds.
  LOCKSTEP_HD C own(int member, int64_t base, int64_t begin, int64_t end) const {
    constexpr int64_t kStep = int64_t{kTeam} * kItems;
    const Join join;
    C totals[kItems];
    for (C& total : totals) total = Join::template initial<C>();
    int64_t i = begin + member * kItems;
    if (r.packed) {
      for (; i + kStep * (kAhead - 1) + kItems <= end; i += kStep * kAhead) {
        C values[kAhead][kItems];
        for (int a = 0; a < kAhead; ++a) {
          load_pack(r.x.data, r.x.dtype, base + r.reduced.offset(i + a * kStep), values[a]);
        }
        for (int a = 0; a < kAhead; ++a) {
          for (int j = 0; j < kItems; ++j) totals[j] = join(totals[j], values[a][j]);
        }
      }
    }
    for (; i < end; i += kStep) {
      C values[kItems];
      read(base, i, end, values);
      for (int j = 0; j < kItems; ++j) totals[j] = join(totals[j], values[j]);
    }
    return join_all(totals, join);
  }
  LOCKSTEP_HD void read(int64_t base, int64_t first, int64_t end, C (&out)[kItems]) const {
    if (r.packed && first + kItems <= end) {
      load_pack(r.x.data, r.x.dtype, base + r.reduced.offset(first), out);
      return;
    }
    for (int j = 0; j < kItems; ++j) {
      out[j] = first + j < end ? r.x.template get<C>(base + r.reduced.offset(first + j))
                               : Join::template initial<C>();
    }
  }
};

// Neighbouring outputs by neighbouring threads, where memory goes along the outputs; kRowLanes
// threads share the rows of an output. Parts go to partials[part][output].
template <class Join, class C, int kRowLanes>
struct ColumnsBody {
  static constexpr int kThreads = 256;
  static constexpr bool kCooperative = kRowLanes > 1;
  static constexpr int kItems = kLanesOf<C>;
  static constexpr int kAhead = 4;
  static constexpr int kColumnLanes = kThreads / kRowLanes;
  static constexpr int kTile = kColumnLanes * kItems;
  static constexpr int kSharedBytes = kRowLanes > 1
                                          ? kThreads / kWarp* kTile* static_cast<int>(sizeof(C))
                                          : 0;
  Reduction<C> r;
  uint32_t tiles = 1;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const auto block = static_cast<uint32_t>(t.block());
    const uint32_t part = block / tiles, tile = block - part * tiles;
    const int64_t begin = part * r.part_length;
    const int64_t end = begin + r.part_length < r.count ? begin + r.part_length : r.count;
    const int lane = t.index() % kColumnLanes, row_lane = t.index() / kColumnLanes;
    const int within = r.packed ? lane * kItems : lane;
    const int spacing = r.packed ? 1 : kColumnLanes;
    const uint32_t first = tile * kTile + static_cast<uint32_t>(within);

    C totals[kItems];
    own(first, static_cast<uint32_t>(spacing), begin + row_lane, end, totals);
    if constexpr (kRowLanes == 1) {
      for (int j = 0; j < kItems; ++j) {
        write(part, first + static_cast<uint32_t>(j * spacing), totals[j]);
      }
    } else {
      static_assert(kColumnLanes < kWarp);
      const Join join;
      for (int j = 0; j < kItems; ++j) {
        for (int distance = kColumnLanes; distance < kWarp; distance *= 2) {
          totals[j] = join(totals[j], t.from_lane_xor(totals[j], distance));
        }
      }
      C* shared = t.template shared<C>();  // [warp][column]
      if (t.lane() < kColumnLanes) {
        for (int j = 0; j < kItems; ++j) {
          shared[t.warp() * kTile + within + j * spacing] = totals[j];
        }
      }
      t.sync();
      if (t.index() >= kTile) return;
      C total = shared[t.index()];
      for (int w = 1; w < kThreads / kWarp; ++w) {
        total = join(total, shared[w * kTile + t.index()]);
      }
      write(part, tile * kTile + static_cast<uint32_t>(t.index()), total);
    }
  }

 private:
  LOCKSTEP_HD void own(uint32_t first, uint32_t spacing, int64_t row, int64_t end,
                       C (&totals)[kItems]) const {
    const Join join;
    const bool whole = r.packed && first + kItems <= r.outputs;
    int64_t at[kItems] = {};
    if (whole) {
      at[0] = r.kept.offset(first);
    } else {
      for (int j = 0; j < kItems; ++j) {
        const uint32_t column = first + static_cast<uint32_t>(j) * spacing;
        at[j] = r.kept.offset(column < r.outputs ? column : r.outputs - 1);
      }
    }
    for (C& total : totals) total = Join::template initial<C>();
    if (first >= r.outputs) return;
    for (; row < end; row += kRowLanes * kAhead) {
      C values[kAhead][kItems];
      for (int a = 0; a < kAhead; ++a) {
        if (row + a * kRowLanes < end) {
          read(r.reduced.offset(row + a * kRowLanes), whole, at, values[a]);
        } else {
          for (C& value : values[a]) value = Join::template initial<C>();
        }
      }
      for (int j = 0; j < kItems; ++j) {
        const C four = join(join(values[0][j], values[1][j]), join(values[2][j], values[3][j]));
        totals[j] = join(totals[j], four);
      }
    }
  }
  LOCKSTEP_HD void read(int64_t base, bool whole, const int64_t (&at)[kItems],
                        C (&out)[kItems]) const {
    if (whole) {
      load_pack(r.x.data, r.x.dtype, base + at[0], out);
    } else {
      for (int j = 0; j < kItems; ++j) out[j] = r.x.template get<C>(base + at[j]);
    }
  }
  LOCKSTEP_HD void write(uint32_t part, uint32_t column, C total) const {
    if (column >= r.outputs) return;
    if (r.partials != nullptr) {
      r.partials[int64_t{part} * r.outputs + column] = total;
    } else {
      r.finish(column, total);
    }
  }
};

}  // namespace lockstep::cuda
