#include "lockstep/runtime/cuda/kernels/elementwise_functions.h"
#include "lockstep/runtime/math/binary.h"

namespace lockstep::cuda {

template <>
const BinaryLaunch* binary_table<float>() {
  return BinaryTable<float, math::BinaryOps>::kAll;
}

template <>
const BinaryBackwardLaunch* binary_backward_table<float>() {
  return BinaryBackwardTable<float, math::BinaryOps>::kAll;
}

template <>
const BinaryLaunch* binary_table<double>() {
  return BinaryTable<double, math::BinaryOps>::kAll;
}

template <>
const BinaryBackwardLaunch* binary_backward_table<double>() {
  return BinaryBackwardTable<double, math::BinaryOps>::kAll;
}

}  // namespace lockstep::cuda
