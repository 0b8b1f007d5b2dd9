#pragma once

#include <cstdint>
#include <type_traits>

#include "lockstep/runtime/dtype.h"
#include "lockstep/runtime/host_device.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

// Values of any dtype as kernels compute with them: double for f64, float for the other floating
// dtypes, int64_t for integers and bool. The dtype is looked up as the kernel runs, the same for
// all threads: one kernel serves f32, bf16 and f16.
namespace lockstep::cuda {

LOCKSTEP_HD float float_of(BFloat16 x) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(uint32_t{x.bits} << 16);
#else
  return static_cast<float>(x);
#endif
}

LOCKSTEP_HD float float_of(Float16 x) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(x.bits));
#else
  return static_cast<float>(x);
#endif
}

LOCKSTEP_HD BFloat16 bfloat16_of(float x) {
#if defined(__CUDA_ARCH__)
  BFloat16 result;
  result.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
  return result;
#else
  return BFloat16(x);
#endif
}

LOCKSTEP_HD Float16 float16_of(float x) {
#if defined(__CUDA_ARCH__)
  Float16 result;
  result.bits = __half_as_ushort(__float2half_rn(x));
  return result;
#else
  return Float16(x);
#endif
}

// Element `at` as C.
template <class C>
LOCKSTEP_HD C load(const void* data, DType dtype, int64_t at) {
  if constexpr (std::is_same_v<C, double>) {
    return static_cast<const double*>(data)[at];
  } else if constexpr (std::is_same_v<C, float>) {
    switch (dtype) {
      case DType::bf16: return float_of(static_cast<const BFloat16*>(data)[at]);
      case DType::f16: return float_of(static_cast<const Float16*>(data)[at]);
      default: return static_cast<const float*>(data)[at];
    }
  } else {
    switch (dtype) {
      case DType::i64: return static_cast<const int64_t*>(data)[at];
      case DType::i32: return static_cast<const int32_t*>(data)[at];
      default: return static_cast<const uint8_t*>(data)[at];
    }
  }
}

template <class C>
LOCKSTEP_HD void store(void* data, DType dtype, int64_t at, C value) {
  if constexpr (std::is_same_v<C, double>) {
    static_cast<double*>(data)[at] = value;
  } else if constexpr (std::is_same_v<C, float>) {
    switch (dtype) {
      case DType::bf16: static_cast<BFloat16*>(data)[at] = bfloat16_of(value); break;
      case DType::f16: static_cast<Float16*>(data)[at] = float16_of(value); break;
      default: static_cast<float*>(data)[at] = value;
    }
  } else {
    switch (dtype) {
      case DType::i64: static_cast<int64_t*>(data)[at] = value; break;
      case DType::i32: static_cast<int32_t*>(data)[at] = static_cast<int32_t>(value); break;
      case DType::boolean: static_cast<uint8_t*>(data)[at] = value != 0; break;
      default: static_cast<uint8_t*>(data)[at] = static_cast<uint8_t>(value);
    }
  }
}

// Consecutive elements that a thread takes at once where memory is contiguous: 16 bytes of 16-bit
// values, 32 of f32.
inline constexpr int kPack = 8;

// Bytes that travel as one.
template <int kCount>
struct __attribute__((may_alias, aligned(4 * kCount))) Words {
  uint32_t words[kCount];
};
using Sixteen = Words<4>;

// What N values are moved in.
template <class T, int N>
using Part = Words<sizeof(T) * N % sizeof(Sixteen) == 0 ? 4 : int{sizeof(T) * N / 4}>;

// N consecutive values; the first lies on a boundary of their Part.
template <class T, int N>
LOCKSTEP_HD void load_together(const T* from, T (&out)[N]) {
  constexpr int kParts = N * sizeof(T) / sizeof(Part<T, N>);
  Part<T, N> parts[kParts];
  for (int i = 0; i < kParts; ++i) parts[i] = reinterpret_cast<const Part<T, N>*>(from)[i];
  __builtin_memcpy(out, parts, sizeof out);
}

template <class T, int N>
LOCKSTEP_HD void store_together(T* to, const T (&values)[N]) {
  constexpr int kParts = N * sizeof(T) / sizeof(Part<T, N>);
  Part<T, N> parts[kParts];
  __builtin_memcpy(parts, values, sizeof values);
  for (int i = 0; i < kParts; ++i) reinterpret_cast<Part<T, N>*>(to)[i] = parts[i];
}

// Elements [at, at + N), where `at` is a multiple of N and the array begins on a 16-byte boundary.
// N is kPack unless a kernel says otherwise.
template <class C, int N>
LOCKSTEP_HD void load_pack(const void* data, DType dtype, int64_t at, C (&out)[N]) {
  const auto from = [&]<class T>(Type<T>) {
    T values[N];
    load_together(static_cast<const T*>(data) + at, values);
    for (int i = 0; i < N; ++i) {
      if constexpr (std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>) {
        out[i] = float_of(values[i]);
      } else {
        out[i] = values[i];
      }
    }
  };
  if constexpr (std::is_same_v<C, double>) {
    from(Type<double>{});
  } else if constexpr (std::is_same_v<C, float>) {
    switch (dtype) {
      case DType::bf16: from(Type<BFloat16>{}); break;
      case DType::f16: from(Type<Float16>{}); break;
      default: from(Type<float>{});
    }
  } else {
    switch (dtype) {
      case DType::i64: from(Type<int64_t>{}); break;
      case DType::i32: from(Type<int32_t>{}); break;
      default: from(Type<uint8_t>{});
    }
  }
}

template <class C, int N>
LOCKSTEP_HD void store_pack(void* data, DType dtype, int64_t at, const C (&values)[N]) {
  const auto to = [&]<class T>(Type<T>) {
    T converted[N];
    for (int i = 0; i < N; ++i) {
      if constexpr (std::is_same_v<T, BFloat16>) {
        converted[i] = bfloat16_of(values[i]);
      } else if constexpr (std::is_same_v<T, Float16>) {
        converted[i] = float16_of(values[i]);
      } else {
        converted[i] = static_cast<T>(values[i]);
      }
    }
    store_together(static_cast<T*>(data) + at, converted);
  };
  if constexpr (std::is_same_v<C, double>) {
    to(Type<double>{});
  } else if constexpr (std::is_same_v<C, float>) {
    switch (dtype) {
      case DType::bf16: to(Type<BFloat16>{}); break;
      case DType::f16: to(Type<Float16>{}); break;
      default: to(Type<float>{});
    }
  } else {
    switch (dtype) {
      case DType::i64: to(Type<int64_t>{}); break;
      case DType::i32: to(Type<int32_t>{}); break;
      case DType::boolean: {
        uint8_t truths[N];
        for (int i = 0; i < N; ++i) truths[i] = values[i] != 0;
        store_together(static_cast<uint8_t*>(data) + at, truths);
        break;
      }
      default: to(Type<uint8_t>{});
    }
  }
}

}  // namespace lockstep::cuda
