#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/ops/check.h"
#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/ops/reduce.h"
#include "lockstep/autograd/ops/shape.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/ops/index.h"

namespace lockstep {

using internal::check_given;
using internal::dim_of;

namespace {

// pad() amounts for `dim` alone.
std::vector<int64_t> pads_of(const Tensor& x, int dim, int64_t before, int64_t after) {
  std::vector<int64_t> pads(static_cast<size_t>(2 * (x.rank() - dim)), 0);
  pads[pads.size() - 2] = before;
  pads[pads.size() - 1] = after;
  return pads;
}

// Elements 1 … of `dim`, or all but the last.
Tensor but_first(const Tensor& x, int dim) { return narrow(x, dim, 1, x.dim(dim) - 1); }
Tensor but_last(const Tensor& x, int dim) { return narrow(x, dim, 0, x.dim(dim) - 1); }

// A zero before the first element of `dim`, or after the last.
Tensor zero_before(const Tensor& x, int dim) { return pad(x, pads_of(x, dim, 1, 0)); }
Tensor zero_after(const Tensor& x, int dim) { return pad(x, pads_of(x, dim, 0, 1)); }

// The factors a_{i+1} of g_i = dy_i + a_{i+1} g_{i+1} (a_{i-1} and g_{i-1} when `reverse`).
Tensor factors_back(const Tensor& a, int dim, bool reverse) {
  return reverse ? zero_before(but_last(a, dim), dim) : zero_after(but_first(a, dim), dim);
}

// The gradient of a: g_i s_{i-1} (s_{i+1} when `reverse`); exactly 0 where the recurrence starts.
Tensor factor_gradient(const Tensor& g, const Tensor& s, int dim, bool reverse) {
  return reverse ? zero_after(but_last(g, dim) * but_first(s, dim), dim)
                 : zero_before(but_first(g, dim) * but_last(s, dim), dim);
}

// s_i = b_i + a_i s_{i-1} along `dim`, which has elements; from the far end when `reverse`. a may
// be empty: 1. With g the gradient of s, that of b is the recurrence of g the other way round.
Tensor recurrence(const Tensor& a, const Tensor& b, int dim, bool reverse) {
  const Array s = kernels::recurrence(a.value(), b.value(), dim, reverse);
  return record({"recurrence"}, s, {&a, &b},
                [a = Saved(a), s = Saved(s, a.requires_grad()), dim, reverse](const Tensor& dy,
                                                                              Gradients& out) {
                  const Tensor factors = a ? factors_back(*a, dim, reverse) : Tensor();
                  const Tensor g = recurrence(factors, dy, dim, !reverse);
                  out.add(0, [&] { return factor_gradient(g, out.own(s), dim, reverse); });
                  out.add(1, g);
                });
}

Tensor widened(const Tensor& x) { return is_floating(x.dtype()) ? x : to(x, DType::i64); }

}  // namespace

Tensor cumsum(const Tensor& x, int dim) {
  if (autocasts("cumsum", {&x})) return cumsum(autocast("cumsum", x), dim);
  dim = dim_of("cumsum", x, dim);
  if (x.rank() == 0 || x.elements() == 0) return widened(x);
  return recurrence({}, widened(x), dim, false);
}

Tensor cumprod(const Tensor& x, int dim) {
  if (autocasts("cumprod", {&x})) return cumprod(autocast("cumprod", x), dim);
  dim = dim_of("cumprod", x, dim);
  const Tensor factors = widened(x);
  if (x.rank() == 0 || x.elements() == 0) return factors;
  // It starts with x_0; from there on each term is 0.
  const Tensor first = pad(narrow(factors, dim, 0, 1), pads_of(x, dim, 0, x.dim(dim) - 1));
  return recurrence(factors, first, dim, false);
}

Tensor prod(const Tensor& x) {
  check_given("prod", x);
  return prod(flatten(x), 0);
}

Tensor prod(const Tensor& x, int dim, bool keepdim) {
  if (autocasts("prod", {&x})) return prod(autocast("prod", x), dim, keepdim);
  dim = dim_of("prod", x, dim);
  if (x.rank() == 0) return widened(x);
  if (x.elements() == 0) return sum(x, {dim}, keepdim) + Scalar(1);
  const Tensor last = narrow(cumprod(x, dim), dim, -1, 1);
  return keepdim ? last : squeeze(last, dim);
}

}  // namespace lockstep
