#pragma once

#include <math.h>

#include <cstdint>

#include "lockstep/runtime/cuda/kernels/operand.h"
#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/cuda/strided.h"
#include "lockstep/runtime/kernels.h"
#include "lockstep/runtime/random/philox.h"

// Random numbers: the very counters of the CPU's kernels (runtime/cpu/random.cc), so the same bits.
namespace lockstep::cuda {

// a + b * c with both roundings, as the CPU's baseline computes it: never one fused operation.
LOCKSTEP_HD double unfused(double a, double b, double c) {
#if defined(__CUDA_ARCH__)
  return __dadd_rn(a, __dmul_rn(b, c));
#else
  return a + b * c;
#endif
}

// y = x * mask / (1 - p) + beta * y; four consecutive elements of a sample share a Philox block.
// An item is a block's elements, or (kWide) two blocks' where samples are whole packs.
template <class C, bool kWide>
struct DropoutBody {
  DeviceKey key;
  uint32_t threshold;
  C scale, beta;
  Operand x, y;
  int64_t width;  // of a sample
  Divisor items;  // of a sample

  LOCKSTEP_HD void one(uint32_t index) const {
    const uint32_t sample = items.divide(index), item = index - sample * items.value;
    if constexpr (kWide) {
      pack(int64_t{index} * kPack, sample, item);
    } else {
      const philox::Block random = draw(sample, item);
      for (int i = 0; i < 4; ++i) {
        const int64_t column = int64_t{4} * item + i, at = sample * width + column;
        if (column >= width) return;
        const C before = beta == C(0) ? C(0) : y.get<C>(at);
        y.put<C>(at, value(random.words[i], x.get<C>(at), before));
      }
    }
  }

 private:
  LOCKSTEP_HD philox::Block draw(uint32_t sample, uint32_t block) const {
    return philox::block({{block, key.operation(), key.first_sample() + sample, key.step()}},
                         key.key.seed);
  }
  LOCKSTEP_HD C value(uint32_t word, C from, C before) const {
    const C kept = word >= threshold ? from * scale : C(0);
    return beta == C(0) ? kept : kept + beta * before;
  }
  LOCKSTEP_HD void pack(int64_t at, uint32_t sample, uint32_t item) const {
    C values[kPack], before[kPack] = {};
    load_pack(x.data, x.dtype, at, values);
    if (beta != C(0)) load_pack(y.data, y.dtype, at, before);
    for (int half = 0; half < 2; ++half) {
      const philox::Block random = draw(sample, 2 * item + static_cast<uint32_t>(half));
      for (int i = 0; i < 4; ++i) {
        C& here = values[4 * half + i];
        here = value(random.words[i], here, before[4 * half + i]);
      }
    }
    store_pack(y.data, y.dtype, at, values);
  }
};

// Two doubles of the block that holds elements 2 b and 2 b + 1 of the whole.
struct UniformPair {
  double low, high, last;
  LOCKSTEP_HD void operator()(const philox::Block& random, double (&out)[2]) const {
    for (int i = 0; i < 2; ++i) {
      const double u = philox::unit_double(random.words[2 * i], random.words[2 * i + 1]);
      const double value = unfused(low, high - low, u);
      out[i] = last < value ? last : value;
    }
  }
};

// Box and Muller (1958).
struct NormalPair {
  double mean, deviation;
  LOCKSTEP_HD void operator()(const philox::Block& random, double (&out)[2]) const {
    const double u = 1 - philox::unit_double(random.words[0], random.words[1]);  // (0, 1]
    const double angle =
        2 * 3.14159265358979323846 * philox::unit_double(random.words[2], random.words[3]);
    const double radius = deviation * ::sqrt(-2 * ::log(u));
    out[0] = unfused(mean, radius, ::cos(angle));
    out[1] = unfused(mean, radius, ::sin(angle));
  }
};

// Elements [first, first + count) of a fill; item i is block first / 2 + i.
template <class Pair>
struct PairsBody {
  Pair pair;
  DeviceKey key;
  uint64_t first, count;
  Operand y;

  LOCKSTEP_HD void one(uint32_t index) const {
    const uint64_t block = first / 2 + index;
    const philox::Block random =
        philox::block({{static_cast<uint32_t>(block), key.operation(),
                        key.first_sample() + static_cast<uint32_t>(block >> 32), key.step()}},
                      key.key.seed);
    double values[2];
    pair(random, values);
    for (int i = 0; i < 2; ++i) {
      const uint64_t element = 2 * block + static_cast<uint64_t>(i);
      if (element < first || element >= first + count) continue;
      const auto at = static_cast<int64_t>(element - first);
      if (y.dtype == DType::f64) {
        y.put<double>(at, values[i]);
      } else {
        y.put<float>(at, static_cast<float>(values[i]));
      }
    }
  }
};

}  // namespace lockstep::cuda
