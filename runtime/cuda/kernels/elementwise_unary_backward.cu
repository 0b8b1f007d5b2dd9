#include "lockstep/runtime/cuda/kernels/elementwise_functions.h"
#include "lockstep/runtime/math/unary.h"

namespace lockstep::cuda {
namespace {

template <class C, class List>
struct Backward;
template <class C, class... F>
struct Backward<C, math::TypeList<F...>> {
  static constexpr UnaryBackwardLaunch kAll[] = {launch_unary_backward<F, C>...};
};

}  // namespace

template <>
const UnaryBackwardLaunch* unary_backward_table<float>() {
  return Backward<float, math::UnaryOps>::kAll;
}

}  // namespace lockstep::cuda
