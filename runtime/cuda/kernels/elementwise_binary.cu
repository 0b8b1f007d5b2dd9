#include "lockstep/runtime/cuda/kernels/elementwise_functions.h"
#include "lockstep/runtime/math/binary.h"

namespace lockstep::cuda {
namespace {

template <class C, class List>
struct Forward;
template <class C, class... F>
struct Forward<C, math::TypeList<F...>> {
  static constexpr BinaryLaunch kAll[] = {launch_binary<F, C>...};
};

template <class C, class List>
struct Backward;
template <class C, class... F>
struct Backward<C, math::TypeList<F...>> {
  static constexpr BinaryBackwardLaunch kAll[] = {launch_binary_backward<F, C>...};
};

}  // namespace

template <>
const BinaryLaunch* binary_table<float>() {
  return Forward<float, math::BinaryOps>::kAll;
}

template <>
const BinaryBackwardLaunch* binary_backward_table<float>() {
  return Backward<float, math::BinaryOps>::kAll;
}

template <>
const BinaryLaunch* binary_table<double>() {
  return Forward<double, math::BinaryOps>::kAll;
}

template <>
const BinaryBackwardLaunch* binary_backward_table<double>() {
  return Backward<double, math::BinaryOps>::kAll;
}

}  // namespace lockstep::cuda
