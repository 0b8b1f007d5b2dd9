#include "lockstep/runtime/cuda/kernels/elementwise_functions.h"
#include "lockstep/runtime/math/unary.h"

namespace lockstep::cuda {

template <>
const UnaryLaunch* unary_table<float>() {
  return UnaryTable<float, math::UnaryOps>::kAll;
}

}  // namespace lockstep::cuda
