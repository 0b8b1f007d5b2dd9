#pragma once

#include <cstdint>

#include "lockstep/runtime/cuda/kernels/elements.h"
#include "lockstep/runtime/cuda/kernels/elementwise.h"
#include "lockstep/runtime/cuda/kernels/row_values.h"

// What the host does to start kernels over rows.
namespace lockstep::cuda {

inline int64_t row_count(const View& x) { return x.rank == 1 ? 1 : x.shape[0]; }
inline int64_t row_width(const View& x) { return x.shape[x.rank - 1]; }

// Calls f(Type<S>) with the type that stores a floating dtype.
template <class F>
void with_storage(DType dtype, const F& f) {
  switch (dtype) {
    case DType::f64: return f(Type<double>{});
    case DType::bf16: return f(Type<BFloat16>{});
    case DType::f16: return f(Type<Float16>{});
    default: return f(Type<float>{});
  }
}

// Whether rows that lie side by side from `view` on all begin on 16-byte boundaries.
template <class S>
bool rows_are_packed(const View& view) {
  return is_aligned(view) && row_width(view) % kPerSixteen<S> == 0;
}

// Calls f with the RowGroup whose threads keep rows of this width, at most kWidestKept.
template <class F>
void with_keeping_group(int64_t width, const F& f) {
  if (width <= 256) return f(RowGroup<32, 8>{});
  if (width <= 512) return f(RowGroup<32, 16>{});
  if (width <= 768) return f(RowGroup<32, 24>{});
  if (width <= 1024) return f(RowGroup<32, 32>{});
  if (width <= 2048) return f(RowGroup<256, 8>{});
  if (width <= 4096) return f(RowGroup<256, 16>{});
  return f(RowGroup<256, 32>{});
}

// A contiguous view as it is where `fits`, else a copy in another dtype while this lives.
class Fitted {
 public:
  Fitted(const View& view, bool fits, DType dtype, Queue& queue)
      : view_(view),
        scratch_(queue, fits ? 0 : static_cast<size_t>(view.elements()) * size_of(dtype)) {
    if (fits) return;
    view_.data = scratch_.as<void>();
    view_.dtype = dtype;
    copy(view, view_, queue);
  }
  const View& view() const { return view_; }

 private:
  View view_;
  Scratch scratch_;
};

template <class S>
class FittedParameter {
 public:
  FittedParameter(const View& view, Queue& queue)
      : fitted_(view, view.data == nullptr || view.dtype == dtype_of<S> || view.dtype == kComputed,
                kComputed, queue) {}
  Parameter<S> get() const {
    const View& view = fitted_.view();
    return {view.data, view.dtype == kComputed, is_aligned(view)};
  }

 private:
  static constexpr DType kComputed = dtype_of<ComputeOf<S>>;
  Fitted fitted_;
};

}  // namespace lockstep::cuda
