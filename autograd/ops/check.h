#pragma once

#include "lockstep/autograd/tensor.h"

namespace lockstep::internal {

// Throws Error unless there are values: a default-constructed tensor has no storage.
inline void check_given(const char* name, const Tensor& x) {
  LOCKSTEP_CHECK(x, name, ": an empty tensor, expected one with values");
}

inline void check_floating(const char* name, const Tensor& x) {
  check_given(name, x);
  LOCKSTEP_CHECK(is_floating(x.dtype()), name, ": a tensor of ", x.dtype(),
                 ", expected a floating dtype");
}

// normalize_dim, but a rank-0 tensor has the dimension 0, as in PyTorch.
inline int dim_of(const char* name, const Tensor& x, int dim) {
  check_given(name, x);
  return normalize_dim(name, dim, x.rank() == 0 ? 1 : x.rank());
}

}  // namespace lockstep::internal
