#pragma once

#include "lockstep/runtime/cuda/access.h"
#include "lockstep/runtime/view.h"

namespace lockstep::cuda {

// A view without its shape.
struct Operand {
  void* data = nullptr;
  DType dtype = DType::f32;

  Operand() = default;
  explicit Operand(const View& view) : data(view.data), dtype(view.dtype) {}
  template <class C>
  LOCKSTEP_HD C get(int64_t at) const {
    return load<C>(data, dtype, at);
  }
  template <class C>
  LOCKSTEP_HD void put(int64_t at, C value) const {
    store<C>(data, dtype, at, value);
  }
};

}  // namespace lockstep::cuda
