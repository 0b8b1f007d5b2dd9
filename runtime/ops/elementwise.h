#pragma once

#include <optional>

#include "lockstep/runtime/array.h"
#include "lockstep/runtime/kernels.h"
#include "lockstep/runtime/ops/into.h"

// Array-level ops: they check shapes, dtypes and devices, choose where results go, and call the
// device's kernels. No gradients. Errors name the op and what it was given.
namespace lockstep::kernels {

// The kernels of the device that holds `array`.
Kernels& of(const Array& array);

Array unary(const char* name, Elementwise op, const Array& x);
// f'(x, y) * dy. x or y may be empty where the derivative does not read it.
Array unary_backward(Elementwise op, const Array& x, const Array& y, const Array& dy, Into into);

// Operands broadcast; both of one dtype.
Array binary(const char* name, Elementwise op, const Array& a, const Array& b);
// The partial for one operand times dy, in dy's shape (not yet summed to the operand's). Operands
// that the partial does not read may be empty.
Array binary_backward(Elementwise op, int operand, const Array& a, const Array& b, const Array& out,
                      const Array& dy, Into into);
Array compare(const char* name, Elementwise op, const Array& a, const Array& b);
Array where(const Array& condition, const Array& a, const Array& b);

// A contiguous array of the same values: `x` itself where it is one.
Array contiguous(const Array& x);
Array copy(const Array& x);
// The values on `device`: `x` itself where they are. Waits for a device that they leave.
Array to_device(const Array& x, Device device);
// `x` itself where it has that dtype. An offer serves where it is to be overwritten.
Array cast(const Array& x, DType dtype, Into into = {});
// Converts the dtype, and brings the values to the device of `to`.
void copy_into(const Array& from, const Array& to);
void fill(const Array& x, double value);
// y = alpha * x + beta * y; x broadcasts to y.
void scale_add(double alpha, const Array& x, double beta, const Array& y);

// Sums the dimensions in which `shape` was broadcast to x's shape. The result has x's dtype unless
// another floating one is asked for.
Array sum_to(const Array& x, const Shape& shape, Into into, std::optional<DType> dtype = {});
// `dims` in the order given, or all when empty.
Array reduce(const char* name, ReduceOp op, const Array& x, std::span<const int> dims, bool keepdim,
             Into into = {});

// Of each of several contiguous floating arrays on one device, which is waited for once.
std::vector<double> sums_of_squares(std::span<const Array> arrays);

}  // namespace lockstep::kernels
