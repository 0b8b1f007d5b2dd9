#include "lockstep/autograd/ops/linear_algebra.h"

#include <cmath>

#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/ops/check.h"
#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/ops/reduce.h"
#include "lockstep/autograd/ops/shape.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "lockstep/runtime/ops/matmul.h"

namespace lockstep {

using internal::check_given;

namespace {

// a @ b as a recorded op where that is on, else straight into what was offered.
Tensor product(const Tensor& a, const Tensor& b, Into into) {
  if (recording()) return matmul(a, b);
  return kernels::matmul(a.value(), b.value(), std::move(into));
}

int64_t leading_elements(const Shape& shape) {
  int64_t product = 1;
  for (int i = 0; i + 1 < shape.rank(); ++i) product *= shape[i];
  return product;
}

Tensor rows_of(const Tensor& x) { return reshape(x, {leading_elements(x.shape()), x.dim(-1)}); }

// The gradient of an operand of `shape`, given how to make its broadcast form.
template <class F>
Tensor reduced(const Shape& shape, const Shape& full, Into into, const F& make) {
  if (shape == full) return make(into);
  const Tensor wide = make(Into());
  return recording() ? sum_to(wide, shape) : Tensor(kernels::sum_to(wide.value(), shape, into));
}

void check_operands(const char* name, const Tensor& a, const Tensor& b, int rank_a, int rank_b) {
  check_given(name, a);
  check_given(name, b);
  LOCKSTEP_CHECK(a.rank() == rank_a && b.rank() == rank_b, name, ": shapes ", a.shape(), " and ",
                 b.shape(), ", expected ", rank_a, " and ", rank_b, " dimensions");
}

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b) {
  if (autocasts("matmul", {&a, &b})) return matmul(autocast("matmul", a), autocast("matmul", b));
  check_given("matmul", a);
  check_given("matmul", b);
  LOCKSTEP_CHECK(a.rank() >= 1 && b.rank() >= 1, "matmul: shapes ", a.shape(), " and ", b.shape(),
                 ", expected at least 1 dimension each");
  if (a.rank() == 1) return squeeze(matmul(unsqueeze(a, 0), b), b.rank() == 1 ? 0 : -2);
  if (b.rank() == 1) return squeeze(matmul(a, unsqueeze(b, 1)), -1);
  return record(
      {"matmul"}, kernels::matmul(a.value(), b.value()), {&a, &b},
      [a_shape = a.shape(), b_shape = b.shape(), a = Saved(a, b.requires_grad()),
       b = Saved(b, a.requires_grad())](const Tensor& dy, Gradients& out) {
        out.add(0, [&](Into into) {
          const Tensor bt = b->mT();
          Shape full = dy.shape();
          full[full.rank() - 1] = bt.dim(-1);
          return reduced(a_shape, full, into, [&](Into to) { return product(dy, bt, to); });
        });
        out.add(1, [&](Into into) {
          if (b_shape.rank() == 2 && a->rank() > 2 && dy.rank() == a->rank()) {
            return product(rows_of(*a).mT(), rows_of(dy), into);
          }
          Shape full = dy.shape();
          full[full.rank() - 2] = a->dim(-1);
          return reduced(b_shape, full, into, [&](Into to) { return product(a->mT(), dy, to); });
        });
      });
}

Tensor mm(const Tensor& a, const Tensor& b) {
  check_operands("mm", a, b, 2, 2);
  return matmul(a, b);
}

Tensor mv(const Tensor& a, const Tensor& x) {
  check_operands("mv", a, x, 2, 1);
  return matmul(a, x);
}

Tensor bmm(const Tensor& a, const Tensor& b) {
  check_operands("bmm", a, b, 3, 3);
  LOCKSTEP_CHECK(a.dim(0) == b.dim(0), "bmm: shapes ", a.shape(), " and ", b.shape(),
                 ", expected batches of one size");
  return matmul(a, b);
}

Tensor dot(const Tensor& a, const Tensor& b) {
  check_operands("dot", a, b, 1, 1);
  return matmul(a, b);
}

Tensor outer(const Tensor& a, const Tensor& b) {
  check_operands("outer", a, b, 1, 1);
  return unsqueeze(a, 1) * b;
}

Tensor addmm(const Tensor& input, const Tensor& a, const Tensor& b, double beta, double alpha) {
  if (autocasts("addmm", {&input, &a, &b})) {
    return addmm(autocast("addmm", input), autocast("addmm", a), autocast("addmm", b), beta, alpha);
  }
  check_given("addmm", input);
  check_operands("addmm", a, b, 2, 2);
  LOCKSTEP_CHECK(input.dtype() == a.dtype(), "addmm: dtypes ", input.dtype(), " and ", a.dtype());
  const Shape shape{a.dim(0), b.dim(1)};
  LOCKSTEP_CHECK(broadcast_shapes("addmm", input.shape(), shape) == shape, "addmm: input of shape ",
                 input.shape(), " for a product of shape ", shape);
  const bool whole = beta == std::trunc(beta) && alpha == std::trunc(alpha);
  LOCKSTEP_CHECK(whole || is_floating(a.dtype()), "addmm: factors ", beta, " and ", alpha, " for ",
                 a.dtype(), ", expected whole numbers");
  const auto scaled = [](const Tensor& x, double factor) {
    if (factor == 1) return x;
    return is_floating(x.dtype()) ? x * factor : x * static_cast<int64_t>(factor);
  };
  const Tensor product = scaled(matmul(a, b), alpha);
  return beta == 0 ? product : product + scaled(input, beta);
}

namespace {

void check_linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  check_given("linear", x);
  check_given("linear", weight);
  LOCKSTEP_CHECK(x.rank() >= 1 && weight.rank() == 2 && x.dim(-1) == weight.dim(1),
                 "linear: input of shape ", x.shape(), " and weight of shape ", weight.shape(),
                 ", expected [..., in] and [out, in], or [in] without bias");
  LOCKSTEP_CHECK(!bias || bias.shape() == Shape{weight.dim(0)}, "linear: bias of shape ",
                 bias.shape(), " for weight of shape ", weight.shape());
  LOCKSTEP_CHECK(x.dtype() == weight.dtype() && (!bias || bias.dtype() == x.dtype()),
                 "linear: dtypes ", x.dtype(), ", ", weight.dtype(), " and ",
                 bias ? bias.dtype() : x.dtype(), ", expected one");
}

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  if (autocasts("linear", {&x, &weight, &bias})) {
    return linear(autocast("linear", x), autocast("linear", weight), autocast("linear", bias));
  }
  if (weight && weight.rank() == 1 && !bias) {  // one output, which has no dimension
    return squeeze(linear(x, unsqueeze(weight, 0)), -1);
  }
  check_linear(x, weight, bias);
  Shape shape = x.shape();
  shape[shape.rank() - 1] = weight.dim(0);
  const int64_t rows = leading_elements(shape);
  const Array flat = kernels::contiguous(x.value()).reshape({rows, x.dim(-1)});
  const Array y = kernels::linear(flat, weight.value(), bias ? bias.value() : Array());
  return record({"linear"}, y.reshape(shape), {&x, &weight, &bias},
                [shape = x.shape(), x = Saved(x, weight.requires_grad()),
                 weight = Saved(weight, x.requires_grad())](const Tensor& dy, Gradients& out) {
                  const Tensor dy_rows = rows_of(dy);
                  out.add(0, [&](Into into) -> Tensor {
                    if (recording()) return reshape(matmul(dy_rows, *weight), shape);
                    Into rows = into;
                    if (into)
                      rows.destination = into.destination.try_view({dy_rows.dim(0), shape.back()});
                    const Array dx = kernels::matmul(dy_rows.value(), weight.value(), rows);
                    return into && dx.storage() == into.destination.storage() ? into.destination
                                                                              : dx.reshape(shape);
                  });
                  out.add(1, [&](Into into) { return product(dy_rows.mT(), rows_of(*x), into); });
                  out.add(2, [&](Into into) -> Tensor {
                    const Shape width{dy_rows.dim(1)};
                    if (recording()) return sum_to(dy_rows, width);
                    return kernels::sum_to(dy_rows.value(), width, into);
                  });
                });
}

}  // namespace lockstep
