#include "lockstep/runtime/cuda/kernels/elementwise_functions.h"
#include "lockstep/runtime/math/unary.h"

namespace lockstep::cuda {

template <>
const UnaryBackwardLaunch* unary_backward_table<float>() {
  return UnaryBackwardTable<float, math::UnaryOps>::kAll;
}

}  // namespace lockstep::cuda
