#include "lockstep/runtime/ops/elementwise.h"

#include "lockstep/runtime/context.h"
#include "lockstep/runtime/ops/layout.h"

namespace lockstep::kernels {

Into accept(const Into& offer, const Shape& shape, DType dtype, Device device) {
  if (offer && offer.destination.shape() == shape && offer.destination.dtype() == dtype) {
    return offer;
  }
  return {Array::empty(shape, dtype, device), 0};
}

Kernels& of(const Array& array) { return backend_of(array.device()).kernels(); }

namespace {

void check_pair(const char* name, const Array& a, const Array& b) {
  LOCKSTEP_CHECK(a.dtype() == b.dtype(), name, ": dtypes ", a.dtype(), " and ", b.dtype());
  LOCKSTEP_CHECK(a.device() == b.device(), name, ": devices ", a.device().to_string(), " and ",
                 b.device().to_string());
}

// A view for an operand that a derivative does not read.
View view_or_none(const Array& x, const Shape& shape) {
  return x ? x.expand(shape).view() : View();
}

}  // namespace

Array unary(const char* name, Elementwise op, const Array& x) {
  LOCKSTEP_CHECK(x, name, ": an empty array");
  const Operation operation(name);
  Array y = empty_elementwise({&x}, x.shape(), x.dtype(), x.device());
  if (same_channels_last({&x, &y})) {
    of(x).unary(op, run_of(x), run_of(y));
  } else {
    of(x).unary(op, x.view(), y.view());
  }
  return y;
}

Array unary_backward(Elementwise op, const Array& x, const Array& y, const Array& dy, Into into) {
  const Operation operation("elementwise backward");
  if (!into) into.destination = empty_elementwise({&dy}, dy.shape(), dy.dtype(), dy.device());
  into = accept(into, dy.shape(), dy.dtype(), dy.device());
  const Array& dx = into.destination;
  if (same_channels_last({&x, &y, &dy, &dx})) {
    of(dy).unary_backward(op, run_of(x), run_of(y), run_of(dy), run_of(dx), into.beta);
  } else {
    of(dy).unary_backward(op, view_or_none(x, dy.shape()), view_or_none(y, dy.shape()), dy.view(),
                          dx.view(), into.beta);
  }
  return dx;
}

Array binary(const char* name, Elementwise op, const Array& a, const Array& b) {
  check_pair(name, a, b);
  const Operation operation(name);
  const Shape shape =
      a.shape() == b.shape() ? a.shape() : broadcast_shapes(name, a.shape(), b.shape());
  Array out = empty_elementwise({&a, &b}, shape, a.dtype(), a.device());
  if (same_channels_last({&a, &b, &out})) {
    of(a).binary(op, run_of(a), run_of(b), run_of(out));
  } else {
    of(a).binary(op, a.expand(shape).view(), b.expand(shape).view(), out.view());
  }
  return out;
}

Array binary_backward(Elementwise op, int operand, const Array& a, const Array& b, const Array& out,
                      const Array& dy, Into into) {
  const Operation operation("elementwise backward");
  if (!into) into.destination = empty_elementwise({&dy}, dy.shape(), dy.dtype(), dy.device());
  into = accept(into, dy.shape(), dy.dtype(), dy.device());
  const Array& d = into.destination;
  if (same_channels_last({&a, &b, &out, &dy, &d})) {
    of(dy).binary_backward(op, operand, run_of(a), run_of(b), run_of(out), run_of(dy), run_of(d),
                           into.beta);
  } else {
    of(dy).binary_backward(op, operand, view_or_none(a, dy.shape()), view_or_none(b, dy.shape()),
                           view_or_none(out, dy.shape()), dy.view(), d.view(), into.beta);
  }
  return d;
}

Array compare(const char* name, Elementwise op, const Array& a, const Array& b) {
  check_pair(name, a, b);
  const Operation operation(name);
  const Shape shape = broadcast_shapes(name, a.shape(), b.shape());
  Array out = Array::empty(shape, DType::boolean, a.device());
  of(a).compare(op, a.expand(shape).view(), b.expand(shape).view(), out.view());
  return out;
}

Array where(const Array& condition, const Array& a, const Array& b) {
  check_pair("where", a, b);
  LOCKSTEP_CHECK(condition.dtype() == DType::boolean, "where: the condition is ", condition.dtype(),
                 ", expected bool");
  LOCKSTEP_CHECK(condition.device() == a.device(), "where: the condition is on ",
                 condition.device().to_string(), ", the values on ", a.device().to_string());
  const Shape shape =
      broadcast_shapes("where", condition.shape(), broadcast_shapes("where", a.shape(), b.shape()));
  const Operation operation("where");
  Array out = Array::empty(shape, a.dtype(), a.device());
  of(a).where(condition.expand(shape).view(), a.expand(shape).view(), b.expand(shape).view(),
              out.view());
  return out;
}

Array contiguous(const Array& x) { return x.contiguous() ? x : copy(x); }

Array copy(const Array& x) {
  const Operation operation("copy");
  Array result = Array::empty(x.shape(), x.dtype(), x.device());
  of(x).copy(x.view(), result.view());
  return result;
}

Array cast(const Array& x, DType dtype, Into into) {
  if (x.dtype() == dtype) return x;
  const Operation operation("to");
  if (!into || into.beta != 0) {
    into = {empty_elementwise({&x}, x.shape(), dtype, x.device()), 0};
  }
  const Array result = accept(into, x.shape(), dtype, x.device()).destination;
  if (same_channels_last({&x, &result})) {
    of(x).copy(run_of(x), run_of(result));
  } else {
    of(x).copy(x.view(), result.view());
  }
  return result;
}

Array to_device(const Array& x, Device device) {
  if (x.device() == device) return x;
  const Operation operation("to");
  const Array source = contiguous(x.to_host());
  if (device.kind == DeviceKind::cpu) return source;
  return Array::from_bytes(source.data(), static_cast<size_t>(source.elements()), x.dtype(),
                           x.shape(), device);
}

void copy_into(const Array& from, const Array& to) {
  const Array near = to_device(from, to.device());
  of(to).copy(near.expand(to.shape()).view(), to.view());
  to.storage()->bump_version();
}

void fill(const Array& x, double value) {
  of(x).fill(x.view(), value);
  x.storage()->bump_version();
}

void scale_add(double alpha, const Array& x, double beta, const Array& y) {
  check_pair("scale_add", x, y);
  of(y).scale_add(alpha, x.expand(y.shape()).view(), beta, y.view());
  y.storage()->bump_version();
}

Array sum_to(const Array& x, const Shape& shape, Into into, std::optional<DType> dtype) {
  if (x.shape() == shape && !into) return cast(x, dtype.value_or(x.dtype()));
  const Operation operation("sum");
  into = accept(into, shape, dtype.value_or(x.dtype()), x.device());
  Shape kept = shape;  // with x's rank
  while (kept.rank() < x.rank()) kept.insert(0, 1);
  const Array out = into.destination.try_view(kept);
  LOCKSTEP_CHECK(out, "sum_to: the destination of shape ", shape, " is not dense");
  of(x).reduce(ReduceOp::sum, x.view(), out.view(), into.beta);
  return into.destination;
}

Array reduce(const char* name, ReduceOp op, const Array& x, std::span<const int> dims, bool keepdim,
             Into into) {
  Shape kept = x.shape();
  unsigned reduced = 0;
  for (int dim : dims) {
    const int index = normalize_dim(name, dim, x.rank());
    LOCKSTEP_CHECK((reduced & (1u << index)) == 0, name, ": dimension ", dim, " named twice");
    reduced |= 1u << index;
  }
  if (dims.empty()) reduced = (1u << x.rank()) - 1;
  Shape result;
  for (int i = 0; i < x.rank(); ++i) {
    const bool gone = (reduced & (1u << i)) != 0;
    if (gone) {
      LOCKSTEP_CHECK(x.dim(i) > 0 || op == ReduceOp::sum || op == ReduceOp::mean, name,
                     ": no elements in dimension ", i, " of shape ", x.shape());
      kept[i] = 1;
    }
    if (!gone || keepdim) result.append(kept[i]);
  }
  const Operation operation(name);
  into = accept(into, result, x.dtype(), x.device());
  const Array out = into.destination.try_view(kept);
  LOCKSTEP_CHECK(out, name, ": the destination of shape ", result, " is not dense");
  of(x).reduce(op, x.view(), out.view(), into.beta);
  return into.destination;
}

std::vector<double> sums_of_squares(std::span<const Array> arrays) {
  std::vector<View> views;
  for (const Array& array : arrays) {
    LOCKSTEP_CHECK(array.device() == arrays[0].device(), "sums_of_squares: devices ",
                   arrays[0].device().to_string(), " and ", array.device().to_string());
    views.push_back(array.view());
  }
  std::vector<double> sums(views.size());
  if (sums.empty()) return sums;
  of(arrays[0]).sums_of_squares(views.data(), static_cast<int>(views.size()), sums.data());
  return sums;
}

}  // namespace lockstep::kernels
