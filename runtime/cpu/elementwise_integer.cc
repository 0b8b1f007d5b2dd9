// Compiled with wrapping arithmetic: integers overflow as two's complement does.
#include <cstdint>

#include "lockstep/runtime/cpu/elementwise.h"
#include "lockstep/runtime/cpu/loops/elementwise_loops.h"

namespace lockstep::cpu {

namespace {

template <class F>
constexpr ElementwiseLoop integer_unary() {
  if constexpr (math::index_of<math::IntegerUnaryOps, F> >= 0) {
    return unary_loop<F, int64_t>;
  } else {
    return nullptr;
  }
}

template <class F>
constexpr ElementwiseLoop integer_binary() {
  if constexpr (math::index_of<math::IntegerBinaryOps, F> >= 0) {
    return binary_loop<F, int64_t>;
  } else {
    return nullptr;
  }
}

template <class List>
struct IntegerTable;
template <class... F>
struct IntegerTable<math::TypeList<F...>> {
  static constexpr ElementwiseLoop unary[] = {integer_unary<F>()...};
  static constexpr ElementwiseLoop binary[] = {integer_binary<F>()...};
};

}  // namespace

const ElementwiseLoops& integer_loops() {
  static constexpr ElementwiseLoops kLoops = {
      .unary = IntegerTable<math::UnaryOps>::unary,
      .unary_backward = nullptr,
      .binary = IntegerTable<math::BinaryOps>::binary,
      .binary_backward = {},
      .compare = CompareTable<int64_t, math::CompareOps>::forward,
      .where = where_loop<int64_t>,
      .scale_add = scale_add_loop<int64_t>};
  return kLoops;
}

}  // namespace lockstep::cpu
