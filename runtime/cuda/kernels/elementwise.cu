#include "lockstep/runtime/cuda/kernels/elementwise.h"

#include "lockstep/runtime/cuda/kernels/elementwise_tables.h"
#include "lockstep/runtime/error.h"
#include "lockstep/runtime/math/binary.h"
#include "lockstep/runtime/math/unary.h"

namespace lockstep::cuda {
namespace {

template <class... F>
const char* functor_name(math::TypeList<F...>, int index) {
  const char* names[] = {F::name...};
  return names[index];
}

// The table's entry for what the dtype is computed in.
template <class Launch>
Launch choose(DType dtype, int index, const Launch* floats, const Launch* doubles,
              const Launch* integers) {
  if (dtype == DType::f64) return doubles[index];
  return is_floating(dtype) ? floats[index] : integers[index];
}

}  // namespace

void unary(Elementwise op, const View& x, const View& y, Queue& queue) {
  const UnaryLaunch launch = choose(x.dtype, op.index, unary_table<float>(), unary_table<double>(),
                                    unary_table<int64_t>());
  if (launch == nullptr) {
    fail({functor_name(math::UnaryOps{}, op.index), ": not defined for ", name_of(x.dtype)});
  }
  launch(op, x, y, queue);
}

void unary_backward(Elementwise op, const View& x, const View& y, const View& dy, const View& dx,
                    double beta, Queue& queue) {
  const UnaryBackwardLaunch* table =
      dx.dtype == DType::f64 ? unary_backward_table<double>() : unary_backward_table<float>();
  table[op.index](op, x, y, dy, dx, beta, queue);
}

void binary(Elementwise op, const View& a, const View& b, const View& out, Queue& queue) {
  const BinaryLaunch launch = choose(out.dtype, op.index, binary_table<float>(),
                                     binary_table<double>(), binary_table<int64_t>());
  if (launch == nullptr) {
    fail({functor_name(math::BinaryOps{}, op.index), ": not defined for ", name_of(out.dtype)});
  }
  launch(a, b, out, queue);
}

void binary_backward(Elementwise op, int operand, const View& a, const View& b, const View& out,
                     const View& dy, const View& d, double beta, Queue& queue) {
  const BinaryBackwardLaunch* table =
      d.dtype == DType::f64 ? binary_backward_table<double>() : binary_backward_table<float>();
  table[op.index](operand, a, b, out, dy, d, beta, queue);
}

void compare(Elementwise op, const View& a, const View& b, const View& out, Queue& queue) {
  choose(a.dtype, op.index, compare_table<float>(), compare_table<double>(),
         compare_table<int64_t>())(a, b, out, queue);
}

}  // namespace lockstep::cuda
