#include "lockstep/autograd/ops.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep {

Tensor Tensor::transpose(int a, int b) const { return lockstep::transpose(*this, a, b); }

Tensor reshape(const Tensor& x, const Shape& shape) {
  return record({"reshape"}, x.value().reshape(shape), {&x},
                [from = x.shape()](const Tensor& dy, Gradients& out) {
                  out.add(0, [&] { return reshape(dy, from); });
                });
}

Tensor permute(const Tensor& x, std::vector<int> order) {
  std::vector<int> inverse(order.size());
  Array value = x.value().permute(order);
  for (size_t i = 0; i < order.size(); ++i) {
    inverse[normalize_dim("permute", order[i], x.rank())] = static_cast<int>(i);
  }
  return record({"permute"}, std::move(value), {&x},
                [inverse = std::move(inverse)](const Tensor& dy, Gradients& out) {
                  out.add(0, [&] { return permute(dy, inverse); });
                });
}

Tensor transpose(const Tensor& x, int a, int b) {
  return record({"transpose"}, x.value().transpose(a, b), {&x},
                [a, b](const Tensor& dy, Gradients& out) {
                  out.add(0, [&] { return transpose(dy, a, b); });
                });
}

Tensor contiguous(const Tensor& x) {
  if (x.value().contiguous()) return x;
  return record({"contiguous"}, kernels::copy(x.value()), {&x},
                [](const Tensor& dy, Gradients& out) { out.add(0, dy); });
}

Tensor unsqueeze(const Tensor& x, int dim) {
  dim = normalize_dim("unsqueeze", dim, x.rank() + 1);
  return record(
      {"unsqueeze"}, x.value().unsqueeze(dim), {&x},
      [dim](const Tensor& dy, Gradients& out) { out.add(0, [&] { return squeeze(dy, dim); }); });
}

Tensor squeeze(const Tensor& x, int dim) {
  dim = normalize_dim("squeeze", dim, x.rank());
  if (x.dim(dim) != 1) return x;
  return record({"squeeze"}, x.value().squeeze(dim), {&x}, [dim](const Tensor& dy, Gradients& out) {
    out.add(0, [&] { return unsqueeze(dy, dim); });
  });
}

Tensor expand(const Tensor& x, const Shape& shape) {
  return record({"expand"}, x.value().expand(shape), {&x},
                [from = x.shape()](const Tensor& dy, Gradients& out) {
                  out.add(0, [&](Into into) -> Tensor {
                    if (recording() || dy.shape() == from) return sum_to(dy, from);
                    return kernels::sum_to(dy.value(), from, into);
                  });
                });
}

namespace {

// Zeros of `shape` with x as the window [start, start + x.dim(dim)) of `dim`: narrow's transpose.
Tensor widen(const Tensor& x, int dim, int64_t start, const Shape& shape) {
  Array value = Array::zeros(shape, x.dtype(), x.device());
  kernels::copy_into(x.value(), value.narrow(dim, start, x.dim(dim)));
  return record({"widen"}, std::move(value), {&x},
                [dim, start, length = x.dim(dim)](const Tensor& dy, Gradients& out) {
                  out.add(0, [&] { return narrow(dy, dim, start, length); });
                });
}

}  // namespace

Tensor narrow(const Tensor& x, int dim, int64_t start, int64_t length) {
  dim = normalize_dim("narrow", dim, x.rank());
  return record({"narrow"}, x.value().narrow(dim, start, length), {&x},
                [dim, start, shape = x.shape()](const Tensor& dy, Gradients& out) {
                  out.add(0, [&](Into into) -> Tensor {
                    if (recording() || into.beta != 1) return widen(dy, dim, start, shape);
                    kernels::scale_add(1, dy.value(), 1,
                                       into.destination.narrow(dim, start, dy.dim(dim)));
                    return into.destination;
                  });
                });
}

std::vector<Tensor> chunk(const Tensor& x, int count, int dim) {
  dim = normalize_dim("chunk", dim, x.rank());
  LOCKSTEP_CHECK(count > 0 && x.dim(dim) % count == 0, "chunk: ", count,
                 " equal parts of dimension ", dim, " of shape ", x.shape());
  const int64_t length = x.dim(dim) / count;
  std::vector<Array> parts;
  for (int i = 0; i < count; ++i) parts.push_back(x.value().narrow(dim, i * length, length));
  const Tensor* inputs[] = {&x};
  return record_many({"chunk"}, std::move(parts), inputs,
                     [dim, length, shape = x.shape()](std::span<const Tensor> dys, Gradients& out) {
                       out.add(0, [&]() -> Tensor {
                         Tensor total;
                         for (size_t i = 0; i < dys.size(); ++i) {
                           if (!dys[i]) continue;
                           const int64_t start = static_cast<int64_t>(i) * length;
                           if (!recording() && total) {
                             kernels::copy_into(dys[i].value(),
                                                total.value().narrow(dim, start, length));
                             continue;
                           }
                           const Tensor part = widen(dys[i], dim, start, shape);
                           total = total ? total + part : part;
                         }
                         return total;
                       });
                     });
}

Tensor sum_to(const Tensor& x, const Shape& shape) {
  if (x.shape() == shape) return x;
  return record({"sum_to"}, kernels::sum_to(x.value(), shape, {}), {&x},
                [from = x.shape()](const Tensor& dy, Gradients& out) {
                  out.add(0, [&] { return expand(dy, from); });
                });
}

namespace {

Tensor reduce(const char* name, ReduceOp op, const Tensor& x, const std::vector<int>& dims,
              bool keepdim) {
  Shape kept = x.shape();
  for (int dim : dims) kept[normalize_dim(name, dim, x.rank())] = 1;
  if (dims.empty()) kept = Shape::filled(x.rank(), 1);
  const double factor = op == ReduceOp::mean ? static_cast<double>(kept.elements()) /
                                                   static_cast<double>(x.elements())
                                             : 1.0;
  return record({name}, kernels::reduce(name, op, x.value(), dims, keepdim), {&x},
                [kept, factor, from = x.shape()](const Tensor& dy, Gradients& out) {
                  out.add(0, [&] {
                    const Tensor rows = reshape(dy, kept);
                    return expand(factor == 1 ? rows : rows * factor, from);
                  });
                });
}

}  // namespace

Tensor sum(const Tensor& x, std::vector<int> dims, bool keepdim) {
  return reduce("sum", ReduceOp::sum, x, dims, keepdim);
}

Tensor mean(const Tensor& x, std::vector<int> dims, bool keepdim) {
  return reduce("mean", ReduceOp::mean, x, dims, keepdim);
}

}  // namespace lockstep
