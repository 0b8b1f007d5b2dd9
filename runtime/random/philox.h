#pragma once

#include <cstdint>

#include "lockstep/runtime/math/functor.h"

namespace lockstep::philox {

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC
// 2011): 128 random bits that are a function of a 128-bit counter and a 64-bit key.
struct Block {
  uint32_t words[4];
};

inline constexpr int kRounds = 10;

LOCKSTEP_HD constexpr Block block(Block counter, uint64_t key) {
  uint32_t c0 = counter.words[0];
  uint32_t c1 = counter.words[1];
  uint32_t c2 = counter.words[2];
  uint32_t c3 = counter.words[3];
  uint32_t k0 = static_cast<uint32_t>(key);
  uint32_t k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * c0;
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(product0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Uniform in [0, 1), all 53 bits of a double.
LOCKSTEP_HD constexpr double unit_double(uint32_t high, uint32_t low) {
  const uint64_t bits = (uint64_t{high} << 32) | low;
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace lockstep::philox
