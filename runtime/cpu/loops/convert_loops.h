#pragma once

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/random/philox.h"

// Included by the per-level files only: internal linkage throughout. The same conversions as those
// of runtime/dtype.h, written for vectors (without the early returns), f16 included: the
// processor's own f16 instructions need a level that v2 lacks.
namespace lockstep::cpu {
namespace {

LOCKSTEP_HD uint32_t bits_of(float value) { return __builtin_bit_cast(uint32_t, value); }
LOCKSTEP_HD float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }

void bf16_to_f32_loop(const uint16_t* from, float* to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = float_of(uint32_t{from[i]} << 16);
}

void f32_to_bf16_loop(const float* from, uint16_t* to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = bits_of(from[i]);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const uint32_t quiet = (bits >> 16) | 0x40u;
    to[i] = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
  }
}

void f16_to_f32_loop(const uint16_t* from, float* to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = from[i];
    const uint32_t magnitude = bits & 0x7fffu;
    const uint32_t sign = (bits & 0x8000u) << 16;
    const uint32_t normal = (magnitude << 13) + 0x38000000u;
    const uint32_t special = 0x7f800000u | (magnitude << 13);
    const uint32_t tiny = bits_of(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
    const uint32_t finite = magnitude < 0x400u ? tiny : normal;
    to[i] = float_of(sign | (magnitude >= 0x7c00u ? special : finite));
  }
}

void f32_to_f16_loop(const float* from, uint16_t* to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = bits_of(from[i]);
    const uint32_t magnitude = bits & 0x7fffffffu;
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
    const uint32_t tiny = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
    const uint32_t finite = magnitude < 0x38800000u ? tiny : normal;
    const uint32_t large = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    to[i] = static_cast<uint16_t>(sign | (magnitude >= 0x477ff000u ? large : finite));
  }
}

void philox_loop(uint64_t seed, uint32_t first, uint32_t c1, uint32_t c2, uint32_t c3,
                 uint32_t* words, int64_t blocks) {
#pragma omp simd
  for (int64_t i = 0; i < blocks; ++i) {
    const philox::Block block =
        philox::block({{first + static_cast<uint32_t>(i), c1, c2, c3}}, seed);
    words[4 * i] = block.words[0];
    words[4 * i + 1] = block.words[1];
    words[4 * i + 2] = block.words[2];
    words[4 * i + 3] = block.words[3];
  }
}

}  // namespace
}  // namespace lockstep::cpu
