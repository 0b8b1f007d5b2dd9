#include "lockstep/runtime/cpu/order.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "lockstep/runtime/cpu/convert.h"
#include "lockstep/runtime/cpu/scratch.h"
#include "lockstep/runtime/cpu/windows.h"
#include "lockstep/runtime/parallel.h"

namespace lockstep::cpu {

namespace {

constexpr int64_t kGrain = 16 * 1024;  // values worth a thread
constexpr int64_t kBlock = 1024;       // values staged at a time
constexpr int64_t kPart = 128 * 1024;  // values of one result that one task takes
constexpr int64_t kColumnBlock = 256;

template <class T>
constexpr DType compute_of = std::is_same_v<T, int64_t> ? DType::i64 : dtype_of<T>;

template <class T>
struct Best {
  T value;
  int64_t place = -1;  // -1: none yet
};

// Whether `a` replaces an earlier `b`.
template <class T>
bool replaces(bool largest, T a, T b) {
  if (b != b) return false;
  return a != a || (largest ? a > b : a < b);
}

template <class T>
T extreme(const Loops& loops, bool largest, const T* x, int64_t n) {
  if constexpr (std::is_same_v<T, int64_t>) {
    return largest ? *std::max_element(x, x + n) : *std::min_element(x, x + n);
  } else {
    return largest ? loops.of<T>().rows.maximum(x, n) : loops.of<T>().rows.minimum(x, n);
  }
}

// Of n values `stride` apart, of which the first is element `start`.
template <class T>
Best<T> best_of(const Loops& loops, bool largest, const char* x, DType dtype, int64_t stride,
                int64_t start, int64_t n) {
  const int64_t size = static_cast<int64_t>(size_of(dtype));
  Best<T> best{};
  T staged[kBlock];
  for (int64_t done = 0; done < n; done += kBlock) {
    const int64_t length = std::min(kBlock, n - done);
    const char* from = x + done * stride * size;
    const T* values = reinterpret_cast<const T*>(from);
    if (stride != 1 || dtype != compute_of<T>) {
      convert(loops, from, dtype, stride, staged, compute_of<T>, 1, length);
      values = staged;
    }
    const T value = extreme(loops, largest, values, length);
    if (best.place >= 0 && !replaces(largest, value, best.value)) continue;
    const T* place = std::find_if(values, values + length,
                                  [&](T v) { return value == value ? v == value : v != v; });
    best = {value, start + done + (place - values)};
  }
  return best;
}

struct Kept {
  View x, index;
  int64_t count, step;  // of the dimension that goes
};

Kept without_dim(const View& x, int dim, const View& index) {
  Kept kept{x, index, x.shape[dim], x.strides[dim]};
  kept.x.shape[dim] = kept.index.shape[dim] = 1;
  return kept;
}

template <class T>
void arg_rows(const Loops& loops, bool largest, const Kept& kept) {
  const Windows all({&kept.x, &kept.index});
  const int64_t parts = (kept.count + kPart - 1) / kPart;
  const int64_t length = std::min(kept.count, kPart);
  const int64_t size = static_cast<int64_t>(size_of(kept.x.dtype));
  std::vector<Best<T>> found(static_cast<size_t>(all.elements * parts));
  parallel_for(all.elements * parts, std::max<int64_t>(1, kGrain / length),
               [&](int64_t begin, int64_t end) {
                 for (int64_t task = begin; task < end; ++task) {
                   const int64_t start = task % parts * kPart;
                   const char* x = Cursor(all, task / parts).pointer(0) + start * kept.step * size;
                   found[task] = best_of<T>(loops, largest, x, kept.x.dtype, kept.step, start,
                                            std::min(kPart, kept.count - start));
                 }
               });
  Cursor at(all, 0);
  for (int64_t i = 0; i < all.elements; ++i, at.advance(1)) {
    Best<T> best = found[i * parts];
    for (int64_t p = 1; p < parts; ++p) {
      const Best<T>& other = found[i * parts + p];
      if (replaces(largest, other.value, best.value)) best = other;
    }
    *reinterpret_cast<int64_t*>(at.pointer(1)) = best.place;
  }
}

// Neighbouring results together, row after row of x.
template <class T>
void arg_columns(const Loops& loops, bool largest, const Kept& kept) {
  const Windows all({&kept.index, &kept.x});
  const int64_t size = static_cast<int64_t>(size_of(kept.x.dtype));
  const int64_t index_stride = all.windows[0].strides[all.rank - 1];
  parallel_for(all.elements, std::max<int64_t>(1, kGrain / kept.count),
               [&](int64_t begin, int64_t end) {
                 for_runs(all, begin, end - begin, [&](const Cursor& at, int64_t, int64_t run) {
                   T best[kColumnBlock], staged[kColumnBlock];
                   int64_t place[kColumnBlock];
                   for (int64_t start = 0; start < run; start += kColumnBlock) {
                     const int64_t n = std::min(kColumnBlock, run - start);
                     for (int64_t i = 0; i < kept.count; ++i) {
                       const char* row = at.pointer(1) + (start + i * kept.step) * size;
                       convert(loops, row, kept.x.dtype, 1, staged, compute_of<T>, 1, n);
                       for (int64_t j = 0; j < n; ++j) {
                         if (i > 0 && !replaces(largest, staged[j], best[j])) continue;
                         best[j] = staged[j];
                         place[j] = i;
                       }
                     }
                     auto* out = reinterpret_cast<int64_t*>(at.pointer(0)) + start * index_stride;
                     for (int64_t j = 0; j < n; ++j) out[j * index_stride] = place[j];
                   }
                 });
               });
}

template <class T>
void arg_reduce_as(const Loops& loops, bool largest, const Kept& kept) {
  const Windows by_x({&kept.x});
  const bool columns = by_x.unit_stride(0) && by_x.inner() >= 8 && kept.step != 1;
  if (columns) return arg_columns<T>(loops, largest, kept);
  arg_rows<T>(loops, largest, kept);
}

// A value as an unsigned key in the same order: equal values (±0) and all NaN have one key each.
uint32_t key_of(float x) {
  if (x != x) return std::numeric_limits<uint32_t>::max();
  const uint32_t bits = std::bit_cast<uint32_t>(x + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
uint64_t key_of(double x) {
  if (x != x) return std::numeric_limits<uint64_t>::max();
  const uint64_t bits = std::bit_cast<uint64_t>(x + 0.0);
  return (bits >> 63) != 0 ? ~bits : bits | (uint64_t{1} << 63);
}
uint32_t key_of(BFloat16 x) { return key_of(static_cast<float>(x)); }
uint32_t key_of(Float16 x) { return key_of(static_cast<float>(x)); }
uint64_t key_of(int64_t x) { return static_cast<uint64_t>(x) ^ (uint64_t{1} << 63); }
uint32_t key_of(int32_t x) { return static_cast<uint32_t>(x) ^ 0x80000000u; }
uint32_t key_of(uint8_t x) { return x; }
uint32_t key_of(bool x) { return x ? 1 : 0; }

// A key and its place in the row. Ordered by key, then place: that order is total, so any algorithm
// gives the stable one.
struct Wide {
  uint64_t key;
  int64_t place;
  bool operator<(const Wide& other) const {
    return key != other.key ? key < other.key : place < other.place;
  }
};
// 32-bit keys of rows that are short enough: the key in the upper half.
using Packed = uint64_t;

uint64_t key_of(const Wide& x) { return x.key; }
uint64_t key_of(Packed x) { return x >> 32; }
int64_t place_of(const Wide& x) { return x.place; }
int64_t place_of(Packed x) { return static_cast<int64_t>(x & 0xffffffffu); }

// Least significant byte first; bytes in which all keys agree cost a count. Leaves the result in
// `items`.
template <class Item>
void radix_sort(Item* items, Item* other, int64_t n, int key_bytes) {
  std::array<std::array<int64_t, 256>, 8> counts{};
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t key = key_of(items[i]);
    for (int byte = 0; byte < key_bytes; ++byte) ++counts[byte][(key >> (8 * byte)) & 255];
  }
  Item* const result = items;
  for (int byte = 0; byte < key_bytes; ++byte) {
    std::array<int64_t, 256>& count = counts[byte];
    if (count[(key_of(items[0]) >> (8 * byte)) & 255] == n) continue;
    int64_t start = 0;
    for (int64_t& bucket : count) start += std::exchange(bucket, start);
    for (int64_t i = 0; i < n; ++i) {
      other[count[(key_of(items[i]) >> (8 * byte)) & 255]++] = items[i];
    }
    std::swap(items, other);
  }
  if (items != result) std::copy(items, items + n, result);
}

// The first k of n items in order. `other`: room for n more where k is n.
template <class Item>
void order(Item* items, Item* other, int64_t n, int64_t k, int key_bytes) {
  constexpr int64_t kRadix = 512;  // items for which counting bytes beats comparing
  if (k == n && n >= kRadix) return radix_sort(items, other, n, key_bytes);
  if (k * 64 <= n) return std::partial_sort(items, items + k, items + n);
  if (k < n) std::nth_element(items, items + k, items + n);
  std::sort(items, items + k);
}

template <class Item, class T>
void sort_rows(const View& x, bool descending, const View& index) {
  const int64_t width = x.shape[1];
  const int64_t k = index.shape[1];
  constexpr int kKeyBytes = sizeof(key_of(T{}));
  parallel_for(x.shape[0], std::max<int64_t>(1, kGrain / 8 / width),
               [&](int64_t begin, int64_t end) {
                 const Scratch<Item> items(width), other(k == width ? width : 0);
                 for (int64_t row = begin; row < end; ++row) {
                   const T* values = x.as<T>() + row * width;
                   for (int64_t i = 0; i < width; ++i) {
                     const auto key = descending ? ~key_of(values[i]) : key_of(values[i]);
                     if constexpr (std::is_same_v<Item, Packed>) {
                       items[i] = static_cast<uint64_t>(key) << 32 | static_cast<uint64_t>(i);
                     } else {
                       items[i] = {key, i};
                     }
                   }
                   order(items.get(), other.get(), width, k, kKeyBytes);
                   int64_t* out = index.as<int64_t>() + row * k;
                   for (int64_t i = 0; i < k; ++i) out[i] = place_of(items[i]);
                 }
               });
}

}  // namespace

void arg_reduce(const Loops& loops, bool largest, const View& x, int dim, const View& index) {
  if (index.elements() == 0) return;
  const Kept kept = without_dim(x, dim, index);
  if (x.dtype == DType::f64) return arg_reduce_as<double>(loops, largest, kept);
  if (is_floating(x.dtype)) return arg_reduce_as<float>(loops, largest, kept);
  arg_reduce_as<int64_t>(loops, largest, kept);
}

void sort(const Loops&, const View& x, bool descending, const View& index) {
  if (index.elements() == 0) return;
  dispatch(x.dtype, [&]<class T>(Type<T>) {
    if constexpr (sizeof(key_of(T{})) == 4) {
      if (x.shape[1] <= std::numeric_limits<uint32_t>::max()) {
        return sort_rows<Packed, T>(x, descending, index);
      }
    }
    sort_rows<Wide, T>(x, descending, index);
  });
}

}  // namespace lockstep::cpu
