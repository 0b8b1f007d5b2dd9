#pragma once

#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/kernels.h"

// What starts the kernel of each functor of runtime/math/: tables in the order of the type lists,
// by the type C that the kernel computes in (float, double, int64_t). int64_t has null where a
// functor is not defined on integers, and no derivatives.
namespace lockstep::cuda {

using UnaryLaunch = void (*)(Elementwise, const View& x, const View& y, Queue&);
using UnaryBackwardLaunch = void (*)(Elementwise, const View& x, const View& y, const View& dy,
                                     const View& dx, double beta, Queue&);
using BinaryLaunch = void (*)(const View& a, const View& b, const View& out, Queue&);
using BinaryBackwardLaunch = void (*)(int operand, const View& a, const View& b, const View& out,
                                      const View& dy, const View& d, double beta, Queue&);

template <class C>
const UnaryLaunch* unary_table();
template <class C>
const UnaryBackwardLaunch* unary_backward_table();
template <class C>
const BinaryLaunch* binary_table();
template <class C>
const BinaryBackwardLaunch* binary_backward_table();
template <class C>
const BinaryLaunch* compare_table();

template <>
const UnaryLaunch* unary_table<float>();
template <>
const UnaryLaunch* unary_table<double>();
template <>
const UnaryLaunch* unary_table<int64_t>();
template <>
const UnaryBackwardLaunch* unary_backward_table<float>();
template <>
const UnaryBackwardLaunch* unary_backward_table<double>();
template <>
const BinaryLaunch* binary_table<float>();
template <>
const BinaryLaunch* binary_table<double>();
template <>
const BinaryLaunch* binary_table<int64_t>();
template <>
const BinaryBackwardLaunch* binary_backward_table<float>();
template <>
const BinaryBackwardLaunch* binary_backward_table<double>();
template <>
const BinaryLaunch* compare_table<float>();
template <>
const BinaryLaunch* compare_table<double>();
template <>
const BinaryLaunch* compare_table<int64_t>();

}  // namespace lockstep::cuda
