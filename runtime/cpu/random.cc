#include "lockstep/runtime/cpu/random.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "lockstep/runtime/cpu/convert.h"
#include "lockstep/runtime/cpu/elementwise.h"
#include "lockstep/runtime/cpu/row_access.h"
#include "lockstep/runtime/parallel.h"
#include "lockstep/runtime/random/philox.h"
#include "lockstep/runtime/random/uniform.h"

namespace lockstep::cpu {

namespace {

constexpr int64_t kBlocks = 256;  // Philox blocks made at a time

template <class T>
void dropout_as(const Loops& loops, const View& x, double p, RandomKey key, const View& y,
                double beta) {
  constexpr int64_t kChunk = 4 * kBlocks;
  const int64_t samples = x.rank == 0 ? 1 : x.shape[0];
  const int64_t width = x.elements() / samples;
  const int64_t chunks = (width + kChunk - 1) / kChunk;
  const auto threshold = static_cast<uint32_t>(std::min(p * 0x1p32, 0x1p32 - 1));
  const T scale = static_cast<T>(1 / (1 - p));
  parallel_for(
      samples * chunks, std::max<int64_t>(1, 8 * kChunk / width), [&](int64_t begin, int64_t end) {
        uint32_t words[kChunk];
        T staged_x[kChunk];
        T staged_y[kChunk];
        for (int64_t task = begin; task < end; ++task) {
          const int64_t sample = task / chunks;
          const int64_t start = task % chunks * kChunk;
          const int64_t n = std::min(kChunk, width - start);
          loops.philox(key.seed, static_cast<uint32_t>(start / 4), key.operation,
                       key.first_sample + static_cast<uint32_t>(sample), key.step, words,
                       (n + 3) / 4);
          const int64_t element = sample * width + start;
          if (x.dtype == dtype_of<T>) {
            loops.of<T>().rows.masked(x.as<T>() + element, words, threshold, scale,
                                      y.as<T>() + element, n, static_cast<T>(beta));
            continue;
          }
          convert(loops, x.as<uint16_t>() + element, x.dtype, 1, staged_x, dtype_of<T>, 1, n);
          convert(loops, y.as<uint16_t>() + element, y.dtype, 1, staged_y, dtype_of<T>, 1, n);
          loops.of<T>().rows.masked(staged_x, words, threshold, scale, staged_y, n,
                                    static_cast<T>(beta));
          convert(loops, staged_y, dtype_of<T>, 1, y.as<uint16_t>() + element, y.dtype, 1, n);
        }
      });
}

// Fills y: `pair` makes two doubles of one Philox block.
template <class Pair>
void fill_pairs(const Loops& loops, const View& y, RandomKey key, uint64_t first,
                const Pair& pair) {
  constexpr uint64_t kChunk = 2 * kBlocks;
  const auto count = static_cast<uint64_t>(y.elements());
  if (count == 0) return;
  const uint64_t first_chunk = first / kChunk;
  const uint64_t last_chunk = (first + count - 1) / kChunk;
  const int64_t size = static_cast<int64_t>(size_of(y.dtype));
  parallel_for(static_cast<int64_t>(last_chunk - first_chunk + 1), 8,
               [&](int64_t begin, int64_t end) {
                 uint32_t words[4 * kBlocks];
                 double values[kChunk];
                 for (int64_t i = begin; i < end; ++i) {
                   const uint64_t start = (first_chunk + static_cast<uint64_t>(i)) * kChunk;
                   const uint64_t block = start / 2;
                   loops.philox(key.seed, static_cast<uint32_t>(block), key.operation,
                                key.first_sample + static_cast<uint32_t>(block >> 32), key.step,
                                words, kBlocks);
                   for (int64_t b = 0; b < kBlocks; ++b) pair(words + 4 * b, values + 2 * b);
                   const uint64_t from = std::max(start, first);
                   const uint64_t to = std::min(start + kChunk, first + count);
                   convert(loops, values + (from - start), DType::f64, 1,
                           y.as<char>() + static_cast<int64_t>(from - first) * size, y.dtype, 1,
                           static_cast<int64_t>(to - from));
                 }
               });
}

}  // namespace

void dropout(const Loops& loops, const View& x, double p, RandomKey key, const View& y,
             double beta) {
  if (x.elements() == 0) return;
  if (p >= 1) {
    if (beta == 0) return fill(loops, y, 0);
    return scale_add(loops, beta, y, 0, y);
  }
  with_row_type(x.dtype, [&]<class T>(T) { dropout_as<T>(loops, x, p, key, y, beta); });
}

void uniform(const Loops& loops, const View& y, double low, double high, RandomKey key,
             uint64_t first) {
  const double last = last_of_uniform(low, high, y.dtype);
  fill_pairs(loops, y, key, first, [=](const uint32_t* words, double* values) {
    for (int i = 0; i < 2; ++i) {
      const double u = philox::unit_double(words[2 * i], words[2 * i + 1]);
      values[i] = std::min(low + (high - low) * u, last);
    }
  });
}

// Box and Muller (1958), by the scalar functions of the standard library: the same values at every
// instruction level.
void normal(const Loops& loops, const View& y, double mean, double deviation, RandomKey key,
            uint64_t first) {
  fill_pairs(loops, y, key, first, [=](const uint32_t* words, double* values) {
    const double u = 1 - philox::unit_double(words[0], words[1]);  // (0, 1]
    const double angle = 2 * std::numbers::pi * philox::unit_double(words[2], words[3]);
    const double radius = deviation * std::sqrt(-2 * std::log(u));
    values[0] = mean + radius * std::cos(angle);
    values[1] = mean + radius * std::sin(angle);
  });
}

}  // namespace lockstep::cpu
