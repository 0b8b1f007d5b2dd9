#include "lockstep/autograd/ops/index.h"

#include "lockstep/autograd/ops/check.h"
#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/ops/shape.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "lockstep/runtime/ops/index.h"
#include "lockstep/runtime/ops/rows.h"

namespace lockstep {

using internal::check_given;
using internal::dim_of;

namespace {

Tensor take(const char* name, const Tensor& x, int dim, const Tensor& index);

// Zeros of `shape` to which dy is added at the places: take's transpose.
Tensor put(const Tensor& dy, int dim, const Tensor& index, const Shape& shape, Into into) {
  into = kernels::accept(into, shape, dy.dtype(), dy.device());
  if (into.beta == 0) kernels::fill(into.destination, 0);
  kernels::scatter_add(dy.value(), dim, index.value(), into.destination);
  return record({"scatter_add"}, into.destination, {&dy},
                [dim, index = Saved(index)](const Tensor& ddy, Gradients& out) {
                  out.add(0, [&] { return take("gather", ddy, dim, *index); });
                });
}

// x and index (in range) of one shape but for `dim`.
Tensor take(const char* name, const Tensor& x, int dim, const Tensor& index) {
  return record({name}, kernels::gather(x.value(), dim, index.value()), {&x},
                [dim, index = Saved(index, x.requires_grad()), shape = x.shape()](const Tensor& dy,
                                                                                  Gradients& out) {
                  out.add(0, [&](Into into) {
                    // An offer that is to be scaled is declined: scattering only adds.
                    const bool adds = !recording() && (into.beta == 0 || into.beta == 1);
                    return put(dy, dim, *index, shape, adds ? into : Into());
                  });
                });
}

// The front of x that an index of `shape` reaches: all of `dim`.
Tensor front(const char* name, const Tensor& x, int dim, const Shape& shape) {
  Tensor result = x;
  for (int i = 0; i < x.rank(); ++i) {
    if (i == dim || shape[i] == x.dim(i)) continue;
    LOCKSTEP_CHECK(shape[i] < x.dim(i), name, ": indices of shape ", shape, " for values of shape ",
                   x.shape(), " along dimension ", dim);
    result = narrow(result, i, 0, shape[i]);
  }
  return result;
}

void check_ranks(const char* name, const Tensor& x, const Array& index) {
  LOCKSTEP_CHECK(index.rank() == x.rank(), name, ": indices of shape ", index.shape(),
                 " for values of shape ", x.shape(), ", expected as many dimensions");
}

// A rank-0 tensor as one of rank 1.
Tensor lifted(const Tensor& x) { return x.rank() == 0 ? unsqueeze(x, 0) : x; }

}  // namespace

Tensor index_select(const Tensor& x, int dim, const Tensor& index) {
  dim = dim_of("index_select", x, dim);
  const Array places = kernels::as_index("index_select", index.value(), x.value());
  LOCKSTEP_CHECK(places.rank() <= 1, "index_select: indices of shape ", places.shape(),
                 ", expected at most 1 dimension");
  const Tensor all = lifted(x);
  kernels::check_range("index_select", places, all.dim(dim));
  Shape shape = all.shape(), column = Shape::filled(all.rank(), 1);
  shape[dim] = column[dim] = places.elements();
  const Tensor y = take("index_select", all, dim, places.reshape(column).expand(shape));
  return x.rank() == 0 ? reshape(y, {}) : y;
}

Tensor gather(const Tensor& x, int dim, const Tensor& index) {
  dim = dim_of("gather", x, dim);
  const Array places = kernels::as_index("gather", index.value(), x.value());
  const Tensor all = lifted(x), at = lifted(places);
  check_ranks("gather", all, at.value());
  kernels::check_range("gather", places, all.dim(dim));
  const Tensor y = take("gather", front("gather", all, dim, at.shape()), dim, at);
  return reshape(y, places.shape());
}

Tensor scatter_add(const Tensor& x, int dim, const Tensor& index, const Tensor& src) {
  dim = dim_of("scatter_add", x, dim);
  check_given("scatter_add", src);
  const Array places = kernels::as_index("scatter_add", index.value(), x.value());
  LOCKSTEP_CHECK(src.dtype() == x.dtype() && src.device() == x.device(),
                 "scatter_add: ", src.dtype(), " values added to ", x.dtype(),
                 ", expected one dtype and device");
  check_ranks("scatter_add", x, places);
  check_ranks("scatter_add", src, places);
  if (x.rank() == 0) return reshape(scatter_add(lifted(x), 0, lifted(index), lifted(src)), {});
  kernels::check_range("scatter_add", places, x.dim(dim));
  Tensor values = front("scatter_add", src, dim, places.shape());
  if (places.dim(dim) != values.dim(dim)) {
    LOCKSTEP_CHECK(places.dim(dim) < values.dim(dim), "scatter_add: indices of shape ",
                   places.shape(), " for ", src.shape(), " values");
    values = narrow(values, dim, 0, places.dim(dim));
  }
  Array sums = kernels::copy(x.value());
  Array reached = sums;
  for (int i = 0; i < x.rank(); ++i) {
    if (i == dim) continue;
    LOCKSTEP_CHECK(places.dim(i) <= x.dim(i), "scatter_add: indices of shape ", places.shape(),
                   " for a tensor of shape ", x.shape(), " along dimension ", dim);
    reached = reached.narrow(i, 0, places.dim(i));
  }
  kernels::scatter_add(values.value(), dim, places, reached);
  return record(
      {"scatter_add"}, std::move(sums), {&x, &values},
      [dim, places = Saved(places, values.requires_grad())](const Tensor& dy, Gradients& out) {
        out.add(0, dy);
        out.add(1, [&] { return gather(dy, dim, *places); });
      });
}

namespace {

void check_mask(const char* name, const Tensor& x, const Tensor& mask) {
  check_given(name, x);
  check_given(name, mask);
  LOCKSTEP_CHECK(mask.dtype() == DType::boolean, name, ": a mask of ", mask.dtype(),
                 ", expected bool");
  LOCKSTEP_CHECK(mask.device() == x.device(), name, ": a mask on ", mask.device().to_string(),
                 " for values on ", x.device().to_string());
}

}  // namespace

Tensor masked_fill(const Tensor& x, const Tensor& mask, const Scalar& value) {
  check_mask("masked_fill", x, mask);
  return where(mask, Tensor(value.to_array(x.dtype(), x.device())), x);
}

Tensor masked_select(const Tensor& x, const Tensor& mask) {
  check_mask("masked_select", x, mask);
  const Shape shape = broadcast_shapes("masked_select", x.shape(), mask.shape());
  const Array places = kernels::nonzero("masked_select", mask.value().expand(shape));
  return take("masked_select", reshape(expand(x, shape), {shape.elements()}), 0, places);
}

namespace {

// dweight[ids[i]] += dy[i]: linear in dy, so its own gradient is a look-up again.
Tensor embedding_backward(const Tensor& dy, const Tensor& ids, const Shape& weight, Into into) {
  return record({"embedding_backward"},
                kernels::embedding_backward(dy.value(), ids.value(), weight, into), {&dy},
                [ids = Saved(ids)](const Tensor& dweight, Gradients& out) {
                  out.add(0, [&] { return embedding(*ids, dweight); });
                });
}

}  // namespace

Tensor embedding(const Tensor& ids, const Tensor& weight, std::optional<int64_t> padding_idx) {
  const Tensor places = kernels::as_index("embedding", ids.value(), weight.value());
  LOCKSTEP_CHECK(weight.rank() == 2, "embedding: a weight of shape ", weight.shape(),
                 ", expected [count, width]");
  const int64_t count = weight.dim(0);
  const int64_t padding = padding_idx.value_or(0) + (padding_idx.value_or(0) < 0 ? count : 0);
  LOCKSTEP_CHECK(!padding_idx || (padding >= 0 && padding < count), "embedding: padding_idx ",
                 *padding_idx, " for ", count, " rows");
  return record({"embedding"}, kernels::embedding(weight.value(), places.value()), {&weight},
                [ids = Saved(places), shape = weight.shape(), padding,
                 pads = padding_idx.has_value()](const Tensor& dy, Gradients& out) {
                  out.add(0, [&](Into into) {
                    if (!pads) return embedding_backward(dy, *ids, shape, into);
                    const Tensor mask = unsqueeze(*ids == Tensor(padding), -1);
                    return embedding_backward(masked_fill(dy, mask, 0), *ids, shape, into);
                  });
                });
}

Tensor one_hot(const Tensor& ids, int64_t classes, DType dtype) {
  const Array places = kernels::as_index("one_hot", ids.value(), ids.value());
  if (classes == -1) {
    LOCKSTEP_CHECK(places.elements() > 0, "one_hot: no indices to count classes from");
    int64_t smallest = 0, largest = 0;
    kernels::of(places).extent(kernels::contiguous(places).view(), &smallest, &largest);
    classes = largest + 1;
  }
  LOCKSTEP_CHECK(classes > 0 || (classes == 0 && places.elements() == 0), "one_hot: ", classes,
                 " classes");
  kernels::check_range("one_hot", places, classes);
  Shape shape = ids.shape();
  shape.append(classes);
  const Array hot = Array::zeros(shape, dtype, ids.device());
  const Array index = places.unsqueeze(places.rank());
  const Array one = Array::full({}, 1, dtype, ids.device());
  kernels::scatter_add(one.expand(index.shape()), index.rank() - 1, index, hot);
  return constant({"one_hot"}, hot, {&ids});
}

namespace {

ValuesIndices first_of(const char* name, const Tensor& x, int dim, int64_t k, bool descending) {
  dim = dim_of(name, x, dim);
  const Tensor all = lifted(x);
  const Tensor index = kernels::sort(name, all.value(), dim, k, descending);
  const Tensor values = take(name, all, dim, index);
  // k is 1 here, or there would be no rank-0 result.
  if (x.rank() == 0 && k == 1) return {reshape(values, {}), reshape(index, {})};
  return {values, index};
}

}  // namespace

ValuesIndices topk(const Tensor& x, int64_t k, int dim, bool largest, bool sorted) {
  static_cast<void>(sorted);  // the order is open then, and this is one
  return first_of("topk", x, dim, k, largest);
}

ValuesIndices sort(const Tensor& x, int dim, bool descending, bool stable) {
  static_cast<void>(stable);  // always
  dim = dim_of("sort", x, dim);
  return first_of("sort", x, dim, x.rank() == 0 ? 1 : x.dim(dim), descending);
}

Tensor argsort(const Tensor& x, int dim, bool descending, bool stable) {
  return sort(x.detach(), dim, descending, stable).indices;
}

}  // namespace lockstep
