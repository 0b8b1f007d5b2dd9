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

}  // namespace

template <>
const UnaryLaunch* unary_table<float>() {
  return Forward<float, math::UnaryOps>::kAll;
}

}  // namespace lockstep::cuda
