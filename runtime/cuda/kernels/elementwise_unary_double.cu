#include "lockstep/runtime/cuda/kernels/elementwise_functions.h"
#include "lockstep/runtime/math/unary.h"

namespace lockstep::cuda {

template <>
const UnaryLaunch* unary_table<double>() {
  return UnaryTable<double, math::UnaryOps>::kAll;
}

template <>
const UnaryBackwardLaunch* unary_backward_table<double>() {
  return UnaryBackwardTable<double, math::UnaryOps>::kAll;
}

}  // namespace lockstep::cuda
