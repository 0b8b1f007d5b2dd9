#include "lockstep/runtime/cuda/kernels/elementwise_functions.h"
#include "lockstep/runtime/math/binary.h"
#include "lockstep/runtime/math/unary.h"

namespace lockstep::cuda {
namespace {

// Null for a functor that integers lack.
template <class F>
constexpr UnaryLaunch unary_launch() {
  if constexpr (math::index_of<math::IntegerUnaryOps, F> >= 0) {
    return launch_unary<F, int64_t>;
  } else {
    return nullptr;
  }
}
template <class F>
constexpr BinaryLaunch binary_launch() {
  if constexpr (math::index_of<math::IntegerBinaryOps, F> >= 0) {
    return launch_binary<F, int64_t>;
  } else {
    return nullptr;
  }
}

template <class List>
struct Integers;
template <class... F>
struct Integers<math::TypeList<F...>> {
  static constexpr UnaryLaunch kUnary[] = {unary_launch<F>()...};
  static constexpr BinaryLaunch kBinary[] = {binary_launch<F>()...};
};

}  // namespace

template <>
const UnaryLaunch* unary_table<int64_t>() {
  return Integers<math::UnaryOps>::kUnary;
}

template <>
const BinaryLaunch* binary_table<int64_t>() {
  return Integers<math::BinaryOps>::kBinary;
}

}  // namespace lockstep::cuda
