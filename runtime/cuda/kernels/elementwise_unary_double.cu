#include "lockstep/runtime/cuda/kernels/elementwise_functions.h"
#include "lockstep/runtime/math/unary.h"

namespace lockstep::cuda {
namespace {

template <class C, class List>
struct Forward;
template <class C, class... F>
struct Forward<C, math::TypeList<F...>> {
  static constexpr UnaryLaunch kAll[] = {launch_unary<F, C>...};
};

template <class C, class List>
struct Backward;
template <class C, class... F>
struct Backward<C, math::TypeList<F...>> {
  static constexpr UnaryBackwardLaunch kAll[] = {launch_unary_backward<F, C>...};
};

}  // namespace

template <>
const UnaryLaunch* unary_table<double>() {
  return Forward<double, math::UnaryOps>::kAll;
}

template <>
const UnaryBackwardLaunch* unary_backward_table<double>() {
  return Backward<double, math::UnaryOps>::kAll;
}

}  // namespace lockstep::cuda
