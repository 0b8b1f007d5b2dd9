#pragma once

#include <cstdint>
#include <type_traits>

#include "lockstep/runtime/cuda/access.h"
#include "lockstep/runtime/cuda/kernels/elements.h"

// Keys for a radix sort: unsigned numbers in the order of the values, of the values' size. Equal
// values (±0) have one key, and so have all NaN, the largest.
namespace lockstep::cuda {

// Of a floating value with bits in W: below 0 all are turned, else the sign alone.
template <class W>
LOCKSTEP_HD W key_of_float(W bits, W infinity) {
  constexpr W kSign = static_cast<W>(W{1} << (8 * sizeof(W) - 1));
  if (static_cast<W>(bits & ~kSign) > infinity) return static_cast<W>(~W{0});
  if (bits == kSign) return kSign;  // -0 as 0
  return static_cast<W>((bits & kSign) != 0 ? ~bits : bits | kSign);
}

LOCKSTEP_HD uint64_t key_of(double x) {
  uint64_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return key_of_float<uint64_t>(bits, uint64_t{0x7ff} << 52);
}
LOCKSTEP_HD uint32_t key_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return key_of_float<uint32_t>(bits, 0x7f800000u);
}
LOCKSTEP_HD uint16_t key_of(BFloat16 x) { return key_of_float<uint16_t>(x.bits, 0x7f80u); }
LOCKSTEP_HD uint16_t key_of(Float16 x) { return key_of_float<uint16_t>(x.bits, 0x7c00u); }
LOCKSTEP_HD uint64_t key_of(int64_t x) { return static_cast<uint64_t>(x) ^ (uint64_t{1} << 63); }
LOCKSTEP_HD uint32_t key_of(int32_t x) { return static_cast<uint32_t>(x) ^ 0x80000000u; }
LOCKSTEP_HD uint8_t key_of(uint8_t x) { return x; }

template <class T>
LOCKSTEP_HD auto key_of(T x, bool descending) {
  const auto key = key_of(x);
  using Key = std::remove_const_t<decltype(key)>;
  return static_cast<Key>(descending ? ~key : key);
}

// The row above the key, and the place in the row.
template <class T>
struct RowKeysBody {
  static constexpr int kThreads = kElementThreads;
  static constexpr bool kCooperative = false;
  const T* x;
  int64_t count, width;
  bool descending;
  uint64_t* keys;
  uint32_t* places;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const int64_t step = int64_t{t.blocks()} * kThreads;
    for (int64_t i = int64_t{t.block()} * kThreads + t.index(); i < count; i += step) {
      const int64_t row = i / width;
      keys[i] = static_cast<uint64_t>(row) << (8 * sizeof(T)) | key_of(x[i], descending);
      places[i] = static_cast<uint32_t>(i - row * width);
    }
  }
};

// The place in all of x.
template <class T>
struct WideKeysBody {
  static constexpr int kThreads = kElementThreads;
  static constexpr bool kCooperative = false;
  const T* x;
  int64_t count;
  bool descending;
  uint64_t* keys;
  int64_t* places;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const int64_t step = int64_t{t.blocks()} * kThreads;
    for (int64_t i = int64_t{t.block()} * kThreads + t.index(); i < count; i += step) {
      keys[i] = key_of(x[i], descending);
      places[i] = i;
    }
  }
};

struct RowsOfPlacesBody {
  static constexpr int kThreads = kElementThreads;
  static constexpr bool kCooperative = false;
  const int64_t* places;
  int64_t count, width;
  uint64_t* rows;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const int64_t step = int64_t{t.blocks()} * kThreads;
    for (int64_t i = int64_t{t.block()} * kThreads + t.index(); i < count; i += step) {
      rows[i] = static_cast<uint64_t>(places[i] / width);
    }
  }
};

// The first `kept` places of each row, as places in the row.
template <class Place>
struct FirstPlacesBody {
  static constexpr int kThreads = kElementThreads;
  static constexpr bool kCooperative = false;
  const Place* places;
  int64_t width, kept, count;
  int64_t* index;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const int64_t step = int64_t{t.blocks()} * kThreads;
    for (int64_t i = int64_t{t.block()} * kThreads + t.index(); i < count; i += step) {
      const int64_t row = i / kept;
      const auto place = static_cast<int64_t>(places[row * width + (i - row * kept)]);
      index[i] = place % width;
    }
  }
};

struct CountBody {
  static constexpr int kThreads = kElementThreads;
  static constexpr bool kCooperative = false;
  int64_t* places;
  int64_t count;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const int64_t step = int64_t{t.blocks()} * kThreads;
    for (int64_t i = int64_t{t.block()} * kThreads + t.index(); i < count; i += step) {
      places[i] = i;
    }
  }
};

}  // namespace lockstep::cuda
