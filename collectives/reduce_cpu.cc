#include "lockstep/collectives/reduce_cpu.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "lockstep/runtime/error.h"

namespace lockstep {
namespace {

// Elements combined at a time: the accumulators stay in the first-level cache.
constexpr int64_t kBlock = 1024;

template <class T>
using Accumulator =
    std::conditional_t<std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>, float, T>;

template <class T>
void load(const T* from, Accumulator<T>* to, int64_t elements) {
  for (int64_t i = 0; i < elements; ++i) to[i] = static_cast<Accumulator<T>>(from[i]);
}

template <class T>
void store(const Accumulator<T>* from, T* to, int64_t elements) {
  for (int64_t i = 0; i < elements; ++i) to[i] = static_cast<T>(from[i]);
}

template <class T>
void combine(ReduceOp reduction, const T* values, Accumulator<T>* total, int64_t elements) {
  using A = Accumulator<T>;
  switch (reduction) {
    case ReduceOp::sum:
    case ReduceOp::mean:
      for (int64_t i = 0; i < elements; ++i) {
        total[i] = static_cast<A>(total[i] + static_cast<A>(values[i]));
      }
      return;
    case ReduceOp::max:
      for (int64_t i = 0; i < elements; ++i)
        total[i] = std::max(total[i], static_cast<A>(values[i]));
      return;
    case ReduceOp::min:
      for (int64_t i = 0; i < elements; ++i)
        total[i] = std::min(total[i], static_cast<A>(values[i]));
      return;
  }
}

template <class T>
void reduce_typed(ReduceOp reduction, std::span<const void* const> inputs,
                  std::span<void* const> outputs, int64_t elements) {
  using A = Accumulator<T>;
  A total[kBlock];
  for (int64_t start = 0; start < elements; start += kBlock) {
    const int64_t count = std::min(kBlock, elements - start);
    load(static_cast<const T*>(inputs[0]) + start, total, count);
    for (const void* input : inputs.subspan(1)) {
      combine(reduction, static_cast<const T*>(input) + start, total, count);
    }
    if constexpr (std::is_floating_point_v<A>) {
      if (reduction == ReduceOp::mean) {
        const A factor = A(1) / static_cast<A>(inputs.size());
        for (int64_t i = 0; i < count; ++i) total[i] *= factor;
      }
    }
    for (void* output : outputs) store(total, static_cast<T*>(output) + start, count);
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
    using A = Accumulator<T>;
    if constexpr (std::is_floating_point_v<A>) {
      T* typed = static_cast<T*>(values);
      for (int64_t i = 0; i < elements; ++i) {
        typed[i] = static_cast<T>(static_cast<A>(typed[i]) * static_cast<A>(factor));
      }
    } else {
      fail({"no scaling of integers (", dtype, ")"});
    }
  });
}

}  // namespace lockstep
