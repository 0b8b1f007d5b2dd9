#include "lockstep/collectives/reduce_cpu.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "lockstep/runtime/cpu/level.h"
#include "lockstep/runtime/error.h"

namespace lockstep {
namespace {

// Elements combined at a time: they stay in the first-level cache.
constexpr int64_t kBlock = 2048;

template <class T>
inline constexpr bool kIsHalf = std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>;

const cpu::Loops& loops() {
  static const cpu::Loops& chosen = cpu::loops_of(cpu::chosen_level());
  return chosen;
}

// Between a dtype and that in which its values are combined.
template <class T, class A>
void load(const T* from, A* to, int64_t n) {
  const auto* bits = reinterpret_cast<const uint16_t*>(from);
  if constexpr (std::is_same_v<T, BFloat16>) {
    loops().convert.bf16_to_f32(bits, to, n);
  } else if constexpr (std::is_same_v<T, Float16>) {
    loops().convert.f16_to_f32(bits, to, n);
  } else {
    std::memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
  }
}

template <class T, class A>
void store(const A* from, T* to, int64_t n) {
  auto* bits = reinterpret_cast<uint16_t*>(to);
  if constexpr (std::is_same_v<T, BFloat16>) {
    loops().convert.f32_to_bf16(from, bits, n);
  } else if constexpr (std::is_same_v<T, Float16>) {
    loops().convert.f32_to_f16(from, bits, n);
  } else {
    std::memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
  }
}

// total = reduction(total, values)
template <class A>
void combine(ReduceOp reduction, const A* values, A* total, int64_t n) {
  if constexpr (std::is_floating_point_v<A>) {
    const cpu::RowLoops<A>& rows = loops().of<A>().rows;
    switch (reduction) {
      case ReduceOp::sum:
      case ReduceOp::mean: return rows.add(values, total, n);
      case ReduceOp::max: return rows.keep_maximum(values, total, n);
      case ReduceOp::min: return rows.keep_minimum(values, total, n);
    }
  } else {
    for (int64_t i = 0; i < n; ++i) {
      if (reduction == ReduceOp::sum) {
        total[i] = static_cast<A>(total[i] + values[i]);
      } else {
        total[i] = reduction == ReduceOp::max ? std::max(total[i], values[i])
                                              : std::min(total[i], values[i]);
      }
    }
  }
}

template <class T>
void reduce_typed(ReduceOp reduction, std::span<const void* const> inputs,
                  std::span<void* const> outputs, int64_t elements) {
  using A = std::conditional_t<kIsHalf<T>, float, T>;
  alignas(64) A total[kBlock], values[kIsHalf<T> ? kBlock : 1];
  for (int64_t start = 0; start < elements; start += kBlock) {
    const int64_t n = std::min(kBlock, elements - start);
    load(static_cast<const T*>(inputs[0]) + start, total, n);
    for (const void* input : inputs.subspan(1)) {
      const T* next = static_cast<const T*>(input) + start;
      if constexpr (kIsHalf<T>) {
        load(next, values, n);
        combine<A>(reduction, values, total, n);
      } else {
        combine<A>(reduction, next, total, n);
      }
    }
    if constexpr (std::is_floating_point_v<A>) {
      const A factor = reduction == ReduceOp::mean ? A(1) / static_cast<A>(inputs.size()) : A(1);
      const auto scale_to = [&](A* to) { loops().of<A>().rows.scale_add(factor, total, 0, to, n); };
      if constexpr (std::is_same_v<T, A>) {
        for (void* output : outputs) scale_to(static_cast<T*>(output) + start);
        continue;
      }
      if (factor != A(1)) scale_to(total);
    }
    for (void* output : outputs) store(total, static_cast<T*>(output) + start, n);
  }
}

}  // namespace

void reduce_in_order(ReduceOp reduction, DType dtype, std::span<const void* const> inputs,
                     std::span<void* const> outputs, int64_t elements) {
  dispatch(dtype, [&]<class T>(Type<T>) {
    if constexpr (std::is_same_v<T, bool>) {
      fail({"bool values cannot be reduced"});
    } else {
      reduce_typed<T>(reduction, inputs, outputs, elements);
    }
  });
}

void scale(DType dtype, void* values, int64_t elements, double factor) {
  dispatch(dtype, [&]<class T>(Type<T>) {
    T* typed = static_cast<T*>(values);
    if constexpr (std::is_floating_point_v<T>) {
      loops().of<T>().rows.scale_add(static_cast<T>(factor), typed, 0, typed, elements);
    } else if constexpr (kIsHalf<T>) {
      alignas(64) float block[kBlock];
      for (int64_t start = 0; start < elements; start += kBlock) {
        const int64_t n = std::min(kBlock, elements - start);
        load(typed + start, block, n);
        loops().f32.rows.scale_add(static_cast<float>(factor), block, 0, block, n);
        store(block, typed + start, n);
      }
    } else {
      fail({"no scaling of integers (", dtype, ")"});
    }
  });
}

}  // namespace lockstep
