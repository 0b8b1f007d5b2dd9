#pragma once

#include <cstdint>
#include <type_traits>

#include "lockstep/runtime/cuda/kernels/row_launch.h"

// Rows of 16 bits, L, that a kernel reads or writes beside rows of f32.
namespace lockstep::cuda {

// Rows beside rows of S: in S too or, where `low`, in L. No data: none.
template <class S, class L>
struct MixedRows {
  void* data = nullptr;
  bool low = false;
  bool vector = false;  // packs of them are whole accesses; of rows that are kept

  // f(pointer to an element)
  template <class F>
  LOCKSTEP_HD void at(int64_t element, const F& f) const {
    if constexpr (!std::is_same_v<S, L>) {
      if (low) return f(static_cast<L*>(data) + element);
    }
    f(static_cast<S*>(data) + element);
  }
  template <class Group>
  LOCKSTEP_HD void load(const Kept<S, Group>& kept, int64_t row,
                        typename Kept<S, Group>::Values& out) const {
    at(row * kept.width, [&](const auto* from) { kept.load(from, vector, {}, out); });
  }
  template <class Group>
  LOCKSTEP_HD void store(const Kept<S, Group>& kept, int64_t row,
                         const typename Kept<S, Group>::Values& values) const {
    at(row * kept.width, [&](auto* to) { kept.store(to, vector, values); });
  }
};

// Calls f(Type<L>) with a 16-bit type that may stand beside rows of f32: that of `dtype`, or any
// where `dtype` is none. Beside other rows it is S.
template <class S, class F>
void with_low_storage(DType dtype, const F& f) {
  if constexpr (!std::is_same_v<S, float>) {
    f(Type<S>{});
  } else if (dtype == DType::f16) {
    f(Type<Float16>{});
  } else {
    f(Type<BFloat16>{});
  }
}

// `packed`: the rows of S are.
template <class S, class L>
MixedRows<S, L> mixed_rows(const View& view, bool packed) {
  return {view.data, view.dtype != dtype_of<S>, packed && is_aligned(view)};
}

}  // namespace lockstep::cuda
