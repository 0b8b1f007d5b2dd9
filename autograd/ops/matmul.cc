#include "lockstep/runtime/ops/matmul.h"

#include "lockstep/autograd/ops.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep {
namespace {

// a @ b as a recorded op where that is on, else straight into what was offered.
Tensor product(const Tensor& a, const Tensor& b, Into into) {
  if (recording()) return matmul(a, b);
  return kernels::matmul(a.value(), b.value(), std::move(into));
}

Tensor rows_of(const Tensor& x) { return reshape(x, {x.elements() / x.dim(-1), x.dim(-1)}); }

// The gradient of an operand of `shape`, given how to make its broadcast form.
template <class F>
Tensor reduced(const Shape& shape, const Shape& full, Into into, const F& make) {
  if (shape == full) return make(into);
  const Tensor wide = make(Into());
  return recording() ? sum_to(wide, shape) : Tensor(kernels::sum_to(wide.value(), shape, into));
}

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b) {
  LOCKSTEP_CHECK(a.rank() >= 1 && b.rank() >= 1, "matmul: shapes ", a.shape(), " and ", b.shape());
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

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  LOCKSTEP_CHECK(x.rank() >= 1 && weight.rank() == 2 && x.dim(-1) == weight.dim(1),
                 "linear: input of shape ", x.shape(), " and weight of shape ", weight.shape());
  LOCKSTEP_CHECK(!bias || bias.shape() == Shape{weight.dim(0)}, "linear: bias of shape ",
                 bias.shape(), " for weight of shape ", weight.shape());
  Shape shape = x.shape();
  shape[shape.rank() - 1] = weight.dim(0);
  const int64_t rows = shape.elements() / weight.dim(0);
  Into into{Array::empty({rows, weight.dim(0)}, x.dtype(), x.device())};
  if (bias) {
    kernels::copy_into(bias.value(), into.destination);
    into.beta = 1;
  }
  const Array flat = kernels::contiguous(x.value()).reshape({rows, x.dim(-1)});
  kernels::matmul(flat, weight.value().transpose(0, 1), into);
  return record({"linear"}, into.destination.reshape(shape), {&x, &weight, &bias},
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
