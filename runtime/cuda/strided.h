#pragma once

#include <cstdint>

#include "lockstep/runtime/host_device.h"
#include "lockstep/runtime/view.h"

// Index arithmetic of kernels over views of any strides, the same on the host, where it is tested.
namespace lockstep::cuda {

// Division by a number that is the same for a whole kernel, of numbers below 2^31 (Granlund &
// Montgomery 1994, "Division by invariant integers using multiplication"): a multiplication and a
// shift instead of the twenty instructions that a device needs.
struct Divisor {
  uint32_t value = 1;
  uint32_t magic = 0;
  uint32_t shift = 0;

  Divisor() = default;
  // 0 stands for 1: nothing is counted in an empty dimension.
  explicit Divisor(uint32_t divisor) : value(divisor == 0 ? 1 : divisor) {
    while (shift < 32 && (uint64_t{1} << shift) < value) ++shift;
    magic =
        static_cast<uint32_t>(((uint64_t{1} << 32) * ((uint64_t{1} << shift) - value)) / value + 1);
  }
  LOCKSTEP_HD uint32_t divide(uint32_t n) const {
#if defined(__CUDA_ARCH__)
    const uint32_t high = __umulhi(n, magic);
#else
    const uint32_t high = static_cast<uint32_t>((uint64_t{n} * magic) >> 32);
#endif
    return (high + n) >> shift;
  }
};

// Elements of `kOperands` views of one shape, numbered in row-major order of that shape. Dimensions
// that lie together in all operands are one. Of fewer than 2^31 elements: larger views are cut by
// who launches.
template <int kOperands, class Stride = int64_t>
struct Strided {
  int rank = 0;
  Divisor shape[View::kMaxRank];  // innermost first
  Stride strides[kOperands][View::kMaxRank];
  bool contiguous = true;  // all operands, in this order

  explicit Strided(const View* const (&views)[kOperands]) {
    const View& first = *views[0];
    int64_t expected = 1;
    for (int d = first.rank - 1; d >= 0; --d) {
      if (first.shape[d] == 1) continue;
      for (const View* view : views) contiguous &= view->strides[d] == expected;
      expected *= first.shape[d];
      if (rank > 0 && joins(views, d)) {
        shape[rank - 1] = Divisor(shape[rank - 1].value * static_cast<uint32_t>(first.shape[d]));
        continue;
      }
      shape[rank] = Divisor(static_cast<uint32_t>(first.shape[d]));
      for (int i = 0; i < kOperands; ++i) {
        strides[i][rank] = static_cast<Stride>(views[i]->strides[d]);
      }
      ++rank;
    }
  }

  // Of element `index` in each operand.
  LOCKSTEP_HD void offsets(uint32_t index, int64_t (&out)[kOperands]) const {
    for (int i = 0; i < kOperands; ++i) out[i] = 0;
    for (int d = 0; d < rank; ++d) {
      const uint32_t outer = shape[d].divide(index);
      const uint32_t here = index - outer * shape[d].value;
      for (int i = 0; i < kOperands; ++i) {
        out[i] += static_cast<int64_t>(here) * strides[i][d];
      }
      index = outer;
    }
  }

 private:
  // Whether dimension d continues the one inside it, in all operands.
  bool joins(const View* const (&views)[kOperands], int d) const {
    for (int i = 0; i < kOperands; ++i) {
      const int64_t inner = int64_t{strides[i][rank - 1]} * shape[rank - 1].value;
      if (views[i]->strides[d] != inner) return false;
    }
    return true;
  }
};

}  // namespace lockstep::cuda
