#include "lockstep/runtime/cpu/convert.h"

#include <cstring>
#include <limits>
#include <type_traits>

namespace lockstep::cpu {

namespace {

template <class T>
inline constexpr bool is_short_float = std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>;

template <class To, class From>
To to_integer(From value) {
  constexpr To kLow = std::numeric_limits<To>::min();
  constexpr To kHigh = std::numeric_limits<To>::max();
  if (value != value) return 0;
  if (value <= static_cast<From>(kLow)) return kLow;
  if (value >= static_cast<From>(kHigh)) return kHigh;  // 2^63 rounds up: not below it
  return static_cast<To>(value);
}

template <class To, class From>
To converted(From value) {
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else if constexpr (is_short_float<From>) {
    return converted<To>(static_cast<float>(value));
  } else if constexpr (is_short_float<To>) {
    return To(static_cast<float>(value));
  } else if constexpr (std::is_same_v<To, bool>) {
    return value != From(0);
  } else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    return to_integer<To>(value);
  } else {
    return static_cast<To>(value);
  }
}

template <class From, class To>
void convert_strided(const void* from, int64_t from_stride, void* to, int64_t to_stride,
                     int64_t n) {
  const From* source = static_cast<const From*>(from);
  To* target = static_cast<To*>(to);
  if (from_stride == 0) {
    const To value = converted<To>(*source);
    if (to_stride == 1) {
      for (int64_t i = 0; i < n; ++i) target[i] = value;
    } else {
      for (int64_t i = 0; i < n; ++i) target[i * to_stride] = value;
    }
  } else if (from_stride == 1 && to_stride == 1) {
    for (int64_t i = 0; i < n; ++i) target[i] = converted<To>(source[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) target[i * to_stride] = converted<To>(source[i * from_stride]);
  }
}

bool convert_short_float(const ConvertLoops& loops, const void* from, DType from_dtype, void* to,
                         DType to_dtype, int64_t n) {
  const auto* words = static_cast<const uint16_t*>(from);
  const auto* floats = static_cast<const float*>(from);
  if (to_dtype == DType::f32 && from_dtype == DType::bf16) {
    loops.bf16_to_f32(words, static_cast<float*>(to), n);
  } else if (to_dtype == DType::f32 && from_dtype == DType::f16) {
    loops.f16_to_f32(words, static_cast<float*>(to), n);
  } else if (from_dtype == DType::f32 && to_dtype == DType::bf16) {
    loops.f32_to_bf16(floats, static_cast<uint16_t*>(to), n);
  } else if (from_dtype == DType::f32 && to_dtype == DType::f16) {
    loops.f32_to_f16(floats, static_cast<uint16_t*>(to), n);
  } else {
    return false;
  }
  return true;
}

}  // namespace

void convert(const Loops& loops, const void* from, DType from_dtype, int64_t from_stride, void* to,
             DType to_dtype, int64_t to_stride, int64_t n) {
  if (from_stride == 1 && to_stride == 1) {
    if (from_dtype == to_dtype) {
      std::memcpy(to, from, static_cast<size_t>(n) * size_of(to_dtype));
      return;
    }
    if (convert_short_float(loops.convert, from, from_dtype, to, to_dtype, n)) return;
  }
  dispatch(from_dtype, [&]<class From>(Type<From>) {
    dispatch(to_dtype, [&]<class To>(Type<To>) {
      convert_strided<From, To>(from, from_stride, to, to_stride, n);
    });
  });
}

}  // namespace lockstep::cpu
