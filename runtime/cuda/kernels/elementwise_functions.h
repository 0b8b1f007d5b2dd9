#pragma once

#include <cstdint>

#include "lockstep/runtime/cuda/kernels/elementwise_tables.h"
#include "lockstep/runtime/cuda/kernels/maps.h"
#include "lockstep/runtime/math/functor.h"

// The functions of maps.h that the functors of runtime/math/ make.
namespace lockstep::cuda {

// y = f(x)
template <class F, class C>
struct Unary {
  using In = C;
  using Out = C;
  static constexpr int kInputs = 1;
  F f;

  LOCKSTEP_HD C operator()(const C (&values)[1]) const { return f(values[0]); }
};

// dx = f'(x, y) * dy + beta * dx
template <class F, class C>
struct UnaryBackward {
  using In = C;
  using Out = C;
  static constexpr int kInputs = 4;
  F f;
  C beta;

  LOCKSTEP_HD C operator()(const C (&values)[4]) const {
    const auto& [x, y, dy, before] = values;
    const C product = f.grad(x, y)[0] * dy;
    return beta == 0 ? product : product + beta * before;
  }
};

// out = f(a, b)
template <class F, class C>
struct Binary {
  using In = C;
  using Out = C;
  static constexpr int kInputs = 2;

  LOCKSTEP_HD C operator()(const C (&values)[2]) const { return F{}(values[0], values[1]); }
};

// d = df/d(operand) * dy + beta * d
template <class F, class C>
struct BinaryBackward {
  using In = C;
  using Out = C;
  static constexpr int kInputs = 5;
  int operand;
  C beta;

  LOCKSTEP_HD C operator()(const C (&values)[5]) const {
    const auto& [a, b, out, dy, before] = values;
    const auto partials = F{}.grad(a, b, out);
    const C product = (operand == 0 ? partials[0] : partials[1]) * dy;
    return beta == 0 ? product : product + beta * before;
  }
};

// out = f(a, b) ? 1 : 0
template <class F, class C>
struct Comparison {
  using In = C;
  using Out = int64_t;
  static constexpr int kInputs = 2;

  LOCKSTEP_HD int64_t operator()(const C (&values)[2]) const {
    return F{}(values[0], values[1]) ? 1 : 0;
  }
};

template <class F, class C>
void launch_unary(Elementwise op, const View& x, const View& y, Queue& queue) {
  launch_map(Unary<F, C>{math::make_functor<F>(op.attributes)}, {&x, &y}, queue);
}

template <class F, class C>
void launch_unary_backward(Elementwise op, const View& x, const View& y, const View& dy,
                           const View& dx, double beta, Queue& queue) {
  const View nothing;
  launch_map(UnaryBackward<F, C>{math::make_functor<F>(op.attributes), static_cast<C>(beta)},
             {&x, &y, &dy, beta == 0 ? &nothing : &dx, &dx}, queue);
}

template <class F, class C>
void launch_binary(const View& a, const View& b, const View& out, Queue& queue) {
  launch_map(Binary<F, C>{}, {&a, &b, &out}, queue);
}

template <class F, class C>
void launch_binary_backward(int operand, const View& a, const View& b, const View& out,
                            const View& dy, const View& d, double beta, Queue& queue) {
  const View nothing;
  launch_map(BinaryBackward<F, C>{operand, static_cast<C>(beta)},
             {&a, &b, &out, &dy, beta == 0 ? &nothing : &d, &d}, queue);
}

template <class F, class C>
void launch_comparison(const View& a, const View& b, const View& out, Queue& queue) {
  launch_map(Comparison<F, C>{}, {&a, &b, &out}, queue);
}

// A table of each kind over a type list. One each, since a file makes those that it uses.
template <class C, class List>
struct UnaryTable;
template <class C, class... F>
struct UnaryTable<C, math::TypeList<F...>> {
  static constexpr UnaryLaunch kAll[] = {launch_unary<F, C>...};
};

template <class C, class List>
struct UnaryBackwardTable;
template <class C, class... F>
struct UnaryBackwardTable<C, math::TypeList<F...>> {
  static constexpr UnaryBackwardLaunch kAll[] = {launch_unary_backward<F, C>...};
};

template <class C, class List>
struct BinaryTable;
template <class C, class... F>
struct BinaryTable<C, math::TypeList<F...>> {
  static constexpr BinaryLaunch kAll[] = {launch_binary<F, C>...};
};

template <class C, class List>
struct BinaryBackwardTable;
template <class C, class... F>
struct BinaryBackwardTable<C, math::TypeList<F...>> {
  static constexpr BinaryBackwardLaunch kAll[] = {launch_binary_backward<F, C>...};
};

}  // namespace lockstep::cuda
