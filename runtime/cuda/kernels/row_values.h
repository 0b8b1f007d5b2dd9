#pragma once

#include <math.h>

#include <cstdint>
#include <limits>
#include <type_traits>

#include "lockstep/runtime/cuda/access.h"
#include "lockstep/runtime/cuda/grid.h"
#include "lockstep/runtime/cuda/kernels/rows.h"
#include "lockstep/runtime/view.h"

// How kernels over contiguous [rows, width] views share rows among threads. Rows up to
// kWidestKept values are read once, into registers (Kept); wider ones are visited chunk by chunk,
// as often as it takes. S is what memory holds, and sums are carried in ComputeOf<S>.
namespace lockstep::cuda {

template <class S>
using ComputeOf = std::conditional_t<std::is_same_v<S, double>, double, float>;

// Values that travel in one access.
template <class S>
inline constexpr int kPerSixteen = static_cast<int>(sizeof(Sixteen) / sizeof(S));

LOCKSTEP_HD double value_of(double x) { return x; }
LOCKSTEP_HD float value_of(float x) { return x; }
LOCKSTEP_HD float value_of(BFloat16 x) { return float_of(x); }
LOCKSTEP_HD float value_of(Float16 x) { return float_of(x); }

// f(p, i) for all, written out: arrays stay in registers only where no index is left.
template <int kPacks, int kPer, class F>
LOCKSTEP_HD void unrolled(const F& f) {
#if defined(__CUDACC__)
#pragma unroll
#endif
  for (int p = 0; p < kPacks; ++p) {
#if defined(__CUDACC__)
#pragma unroll
#endif
    for (int i = 0; i < kPer; ++i) f(p, i);
  }
}
template <int kPacks, int kPer, class C, class F>
LOCKSTEP_HD void for_each_value(C (&values)[kPacks][kPer], const F& f) {
  unrolled<kPacks, kPer>([&](int p, int i) { f(values[p][i]); });
}

template <class S>
LOCKSTEP_HD S stored(ComputeOf<S> x) {
  if constexpr (std::is_same_v<S, BFloat16>) {
    return bfloat16_of(x);
  } else if constexpr (std::is_same_v<S, Float16>) {
    return float16_of(x);
  } else {
    return x;
  }
}

// exp(x); where it will be stored in 16 bits, with a relative error of about |x| 2^-23.
template <class S>
LOCKSTEP_HD ComputeOf<S> exponential(ComputeOf<S> x) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(S) == 2) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x * 1.4426950408889634f));
    return result;
  }
#endif
  return exp(x);
}

// Ignores NaN, if one of them is a number.
struct Larger {
  template <class C>
  LOCKSTEP_HD C operator()(C a, C b) const {
    return fmax(a, b);
  }
};

template <class C>
struct Pair {
  C first = 0, second = 0;
};
template <class C>
LOCKSTEP_HD Pair<C> operator+(const Pair<C>& a, const Pair<C>& b) {
  return {a.first + b.first, a.second + b.second};
}

// The largest value so far and the sum of exp(value - largest), in one pass (Milakov & Gimelshein
// 2018, "Online normalizer calculation for softmax"). The sum of -inf alone is 0.
template <class S>
struct OnlineSum {
  using C = ComputeOf<S>;
  C largest = std::numeric_limits<C>::lowest();
  C sum = 0;

  template <int kPacks, int kPer>
  LOCKSTEP_HD void add(const C (&values)[kPacks][kPer]) {
    C top = largest;
    for_each_value(values, [&](C value) { top = fmax(top, value); });
    if (top > largest) {
      sum *= exponential<S>(largest - top);
      largest = top;
    }
    C part = 0;
    for_each_value(values, [&](C value) { part += exponential<S>(value - top); });
    sum += part;
  }

  struct Join {
    LOCKSTEP_HD OnlineSum operator()(const OnlineSum& a, const OnlineSum& b) const {
      const bool rises = a.largest < b.largest;
      const C lower = rises ? a.largest : b.largest;
      OnlineSum both;
      both.largest = rises ? b.largest : a.largest;
      both.sum = rises ? b.sum : a.sum;
      both.sum += (rises ? a.sum : b.sum) * exponential<S>(lower - both.largest);
      return both;
    }
  };
};

// A pack of 16-bit values beside one of f32 values.
struct alignas(8) Eight {
  uint32_t words[2];
};
template <class T, int kPer>
using AccessOf =
    std::conditional_t<kPer * sizeof(T) == sizeof(Eight) && sizeof(T) == 2, Eight, Sixteen>;

// One store: the compiler, left alone, joins it with the single ones of another branch.
LOCKSTEP_HD void store_pack(void* to, const Sixteen& x) {
#if defined(__CUDA_ARCH__)
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};"
               :
               : "l"(__cvta_generic_to_global(to)), "r"(x.words[0]), "r"(x.words[1]),
                 "r"(x.words[2]), "r"(x.words[3])
               : "memory");
#else
  *static_cast<Sixteen*>(to) = x;
#endif
}
LOCKSTEP_HD void store_pack(void* to, const Eight& x) {
#if defined(__CUDA_ARCH__)
  asm volatile("st.global.v2.b32 [%0], {%1, %2};"
               :
               : "l"(__cvta_generic_to_global(to)), "r"(x.words[0]), "r"(x.words[1])
               : "memory");
#else
  *static_cast<Eight*>(to) = x;
#endif
}

// kPer values from `from` on; `vector`: it lies on the boundary of a pack.
template <int kPer, class T, class C>
LOCKSTEP_HD void load_values(const T* from, bool vector, C (&out)[kPer]) {
  using Access = AccessOf<T, kPer>;
  constexpr int kParts = static_cast<int>(kPer * sizeof(T) / sizeof(Access));
  if constexpr (kParts > 0) {
    if (vector) {
      Access parts[kParts];
      for (int i = 0; i < kParts; ++i) parts[i] = reinterpret_cast<const Access*>(from)[i];
      T values[kPer];
      __builtin_memcpy(values, parts, sizeof parts);
      for (int i = 0; i < kPer; ++i) out[i] = value_of(values[i]);
      return;
    }
  }
  for (int i = 0; i < kPer; ++i) out[i] = value_of(from[i]);
}

template <int kPer, class T, class C>
LOCKSTEP_HD void store_values(T* to, bool vector, const C (&values)[kPer]) {
  using Access = AccessOf<T, kPer>;
  constexpr int kParts = static_cast<int>(kPer * sizeof(T) / sizeof(Access));
  if constexpr (kParts > 0) {
    if (vector) {
      T converted[kPer];
      for (int i = 0; i < kPer; ++i) converted[i] = stored<T>(values[i]);
      Access parts[kParts];
      __builtin_memcpy(parts, converted, sizeof parts);
      for (int i = 0; i < kParts; ++i) store_pack(reinterpret_cast<Access*>(to) + i, parts[i]);
      return;
    }
  }
  for (int i = 0; i < kPer; ++i) to[i] = stored<T>(values[i]);
}

// Threads that work on one row, each keeping up to kElements of its values. Groups of a warp share
// a block of 256 threads; a larger one is a block.
template <int kSize_, int kElements_>
struct RowGroup {
  static constexpr int kSize = kSize_;
  static constexpr int kElements = kElements_;
  static constexpr int kThreads = kSize == kWarp ? 256 : kSize;
  static constexpr int kRows = kThreads / kSize;

  LOCKSTEP_DEVICE static int thread(const Thread& t) { return kRows == 1 ? t.index() : t.lane(); }
  LOCKSTEP_DEVICE static int64_t number(const Thread& t) {
    return kRows == 1 ? int64_t{t.block()} : int64_t{t.block()} * kRows + t.warp();
  }
  static int64_t blocks(int64_t rows) { return (rows + kRows - 1) / kRows; }

  // The join of the group's values, for each of its threads.
  template <class T, class Join>
  LOCKSTEP_DEVICE static T across(const Thread& t, const T& value, const Join& join) {
    if constexpr (kSize == kWarp) {
      return across_warp(t, value, join);
    } else {
      return across_block<kSize>(t, value, t.shared<T>(), join);
    }
  }
  template <class T>
  static constexpr int shared_bytes() {
    return kSize == kWarp ? 0 : across_block_bytes<T>(kSize);
  }
};

inline constexpr int kWidestKept = 8192;
// For rows of any width.
template <int kSize>
using VisitingGroup = RowGroup<kSize, 0>;

// What one thread of a group keeps of a row: packs of 16 bytes where the rows are `packed`, else
// single elements; the group's threads lie side by side.
template <class S, class Group>
struct Kept {
  using C = ComputeOf<S>;
  static constexpr int kPer = kPerSixteen<S>;
  static constexpr int kPacks = Group::kElements / kPer;
  using Values = C[kPacks][kPer];

  int thread;
  int width;
  bool packed;

  LOCKSTEP_HD int column(int pack, int i) const {
    return packed ? (pack * Group::kSize + thread) * kPer + i
                  : (pack * kPer + i) * Group::kSize + thread;
  }
  // Beyond the width, `otherwise`. `vector`: packed, and the row lies on a 16-byte boundary.
  template <class T>
  LOCKSTEP_HD void load(const T* row, bool vector, C otherwise, Values& out) const {
    if (vector) {
      for (int p = 0; p < kPacks; ++p) {
        for (int i = 0; i < kPer; ++i) out[p][i] = otherwise;
        const int first = (p * Group::kSize + thread) * kPer;
        if (first < width) load_values<kPer>(row + first, true, out[p]);
      }
    } else {
      unrolled<kPacks, kPer>([&](int p, int i) {
        const int at = column(p, i);
        out[p][i] = at < width ? value_of(row[at]) : otherwise;
      });
    }
  }
  template <class T>
  LOCKSTEP_HD void store(T* row, bool vector, const Values& values) const {
    if (vector) {
      for (int p = 0; p < kPacks; ++p) {
        const int first = (p * Group::kSize + thread) * kPer;
        if (first < width) store_values<kPer>(row + first, true, values[p]);
      }
    } else {
      unrolled<kPacks, kPer>([&](int p, int i) {
        const int at = column(p, i);
        if (at < width) row[at] = stored<T>(values[p][i]);
      });
    }
  }
  // values = values + beta * row; beta 0 ignores the row.
  LOCKSTEP_HD void add(C beta, const S* row, bool vector, Values& values) const {
    if (beta == 0) return;
    Values before;
    load(row, vector, C(0), before);
    add(beta, before, values);
  }
  LOCKSTEP_HD static void add(C beta, const Values& before, Values& values) {
    unrolled<kPacks, kPer>([&](int p, int i) { values[p][i] += beta * before[p][i]; });
  }
};

// Elements at + p * kStride + i of a row.
template <int kPacks_, int kPer_, int kStride>
struct Chunk {
  static constexpr int kPacks = kPacks_;
  static constexpr int kPer = kPer_;

  LOCKSTEP_HD static int64_t first(int64_t at, int pack) { return at + pack * kStride; }
  template <class T, class C>
  LOCKSTEP_HD static void load(const T* row, int64_t at, bool vector, C (&out)[kPacks][kPer]) {
    for (int p = 0; p < kPacks; ++p) load_values<kPer>(row + first(at, p), vector, out[p]);
  }
  template <class T, class C>
  LOCKSTEP_HD static void store(T* row, int64_t at, bool vector, const C (&values)[kPacks][kPer]) {
    for (int p = 0; p < kPacks; ++p) store_values<kPer>(row + first(at, p), vector, values[p]);
  }
  template <class T, class C>
  LOCKSTEP_HD static void add(C beta, const T* row, int64_t at, bool vector,
                              C (&values)[kPacks][kPer]) {
    if (beta == 0) return;
    C before[kPacks][kPer];
    load(row, at, vector, before);
    unrolled<kPacks, kPer>([&](int p, int i) { values[p][i] += beta * before[p][i]; });
  }
};

// By how many values a row begins after the boundary of a pack of kPer.
template <int kPer, class T>
LOCKSTEP_HD int past_pack(const T* row) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(row) % (kPer * sizeof(T)) / sizeof(T));
}
template <class T>
LOCKSTEP_HD int past_boundary(const T* row) {
  return past_pack<kPerSixteen<T>>(row);
}
// Whether packs of `leader` are whole accesses of `row` too.
template <class S, class T>
LOCKSTEP_HD bool lies_alike(const S* leader, const T* row) {
  return past_boundary(leader) == past_pack<kPerSixteen<S>>(row);
}

// Calls f(at, Chunk) for what a thread takes of a row: kBatch packs at once as long as there are so
// many, then single ones. Packs begin on 16-byte boundaries of `row`; elements before and after
// them come one by one.
template <class Group, int kBatch, class S, class F>
LOCKSTEP_DEVICE void visit(const S* row, int64_t width, int thread, const F& f) {
  constexpr int kPer = kPerSixteen<S>;
  const int64_t skewed = (kPer - past_boundary(row)) % kPer;
  const int64_t head = skewed < width ? skewed : width;
  const int64_t packs = (width - head) / kPer;
  int64_t pack = thread;
  for (; pack + (kBatch - 1) * Group::kSize < packs; pack += kBatch * Group::kSize) {
    f(head + pack * kPer, Chunk<kBatch, kPer, Group::kSize * kPer>{});
  }
  for (; pack < packs; pack += Group::kSize) f(head + pack * kPer, Chunk<1, kPer, 0>{});
  const int64_t tail = head + packs * kPer + thread;
  if (thread < head) f(int64_t{thread}, Chunk<1, 1, 0>{});
  if (tail < width) f(tail, Chunk<1, 1, 0>{});
}

// A [width] parameter of rows, in S or in ComputeOf<S>, or absent.
template <class S>
struct Parameter {
  using C = ComputeOf<S>;
  const void* data = nullptr;
  bool computed = false;  // in ComputeOf<S>
  bool aligned = false;

  template <class Group>
  LOCKSTEP_HD void load(const Kept<S, Group>& kept, C otherwise,
                        typename Kept<S, Group>::Values& out) const {
    const bool vector = kept.packed && aligned;
    if (data == nullptr) {
      for_each_value(out, [&](C& value) { value = otherwise; });
    } else if (computed) {
      kept.load(static_cast<const C*>(data), vector, otherwise, out);
    } else {
      kept.load(static_cast<const S*>(data), vector, otherwise, out);
    }
  }
  // `row`: of the chunk; `at` is a multiple of a pack where that is aligned.
  template <class Chunk>
  LOCKSTEP_HD void load(const S* row, int64_t at, C otherwise,
                        C (&out)[Chunk::kPacks][Chunk::kPer]) const {
    const bool vector = aligned && past_boundary(row) == 0;
    if (data == nullptr) {
      for_each_value(out, [&](C& value) { value = otherwise; });
    } else if (computed) {
      Chunk::load(static_cast<const C*>(data), at, vector, out);
    } else {
      Chunk::load(static_cast<const S*>(data), at, vector, out);
    }
  }
};

}  // namespace lockstep::cuda
