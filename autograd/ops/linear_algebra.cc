#include "lockstep/autograd/ops/linear_algebra.h"

#include <cmath>

#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/ops/check.h"
#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/ops/reduce.h"
#include "lockstep/autograd/ops/shape.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "lockstep/runtime/ops/layout.h"
#include "lockstep/runtime/ops/matmul.h"

namespace lockstep {

using internal::check_given;

namespace {

// a @ b as a recorded op where that is on, else straight into what was offered, if products can be
// written there.
Tensor product(const Tensor& a, const Tensor& b, Into into) {
  if (recording()) return matmul(a, b);
  if (into && !kernels::is_matrix(into.destination)) into = {};
  return kernels::matmul(a.value(), b.value(), std::move(into));
}

// Where a product with one matrix goes: such products are read as operands of others.
Into place_of_product(const Tensor& a, const Tensor& b) {
  if (b.rank() != 2 || a.dim(-1) != b.dim(0) || a.dtype() != b.dtype()) return {};
  const Operation operation("matmul");
  Shape shape = a.shape();
  shape[shape.rank() - 1] = b.dim(1);
  return {kernels::empty_rows(shape, a.dtype(), a.device()), 0};
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
      {"matmul"}, kernels::matmul(a.value(), b.value(), place_of_product(a, b)), {&a, &b},
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

}  // namespace lockstep
