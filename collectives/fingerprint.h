#pragma once

#include <cstdint>

namespace lockstep {

// A hash of `hash` and, behind it, `next` (the finalizer of SplitMix64).
constexpr uint64_t mixed(uint64_t hash, uint64_t next) {
  uint64_t x = (hash ^ next) + 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace lockstep
