#include "lockstep/autograd/ops/reduce.h"

#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/ops/check.h"
#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/ops/index.h"
#include "lockstep/autograd/ops/shape.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "lockstep/runtime/ops/index.h"

namespace lockstep {

using internal::check_floating;
using internal::check_given;
using internal::dim_of;

Tensor sum_to(const Tensor& x, const Shape& shape) {
  check_given("sum_to", x);
  if (x.shape() == shape) return x;
  LOCKSTEP_CHECK(broadcast_shapes("sum_to", shape, x.shape()) == x.shape(), "sum_to: shape ",
                 x.shape(), " to ", shape, ", which does not broadcast to it");
  return record({"sum_to"}, kernels::sum_to(x.value(), shape, {}), {&x},
                [from = x.shape()](const Tensor& dy, Gradients& out) {
                  out.add(0, [&] { return expand(dy, from); });
                });
}

namespace {

// Which dimensions go, and the shapes that are left.
struct Reduced {
  std::vector<int> dims;  // none of a rank-0 tensor
  Shape kept;             // with size 1 for what goes
  Shape result;
  int64_t count = 1;  // elements of x in one of the result
};

Reduced reduced(const char* name, const Tensor& x, const std::vector<int>& dims, bool keepdim) {
  check_given(name, x);
  Reduced r;
  bool gone[kMaxRank + 1] = {};
  for (int dim : dims) {
    const int i = dim_of(name, x, dim);
    LOCKSTEP_CHECK(!gone[i], name, ": dimension ", dim, " named twice");
    gone[i] = true;
  }
  for (int i = 0; i < x.rank(); ++i) {
    const bool goes = gone[i] || dims.empty();
    if (goes) r.dims.push_back(i);
    if (goes) r.count *= x.dim(i);
    r.kept.append(goes ? 1 : x.dim(i));
    if (!goes || keepdim) r.result.append(goes ? 1 : x.dim(i));
  }
  return r;
}

Array reduce_array(const char* name, ReduceOp op, const Array& x, const Reduced& r) {
  const Array y = kernels::reduce(name, op, x, r.dims, true);
  return y.reshape(r.result);
}

Tensor widened(const Tensor& x) { return is_floating(x.dtype()) ? x : to(x, DType::i64); }

Tensor sum_or_mean(const char* name, ReduceOp op, const Tensor& x, const std::vector<int>& dims,
                   bool keepdim) {
  const Reduced r = reduced(name, x, dims, keepdim);
  const double factor = op == ReduceOp::mean ? 1.0 / static_cast<double>(r.count) : 1.0;
  return record({name}, reduce_array(name, op, x.value(), r), {&x},
                [kept = r.kept, factor, from = x.shape()](const Tensor& dy, Gradients& out) {
                  out.add(0, [&] {
                    const Tensor rows = reshape(dy, kept);
                    return expand(factor == 1 ? rows : rows * factor, from);
                  });
                });
}

}  // namespace

Tensor sum(const Tensor& x, std::vector<int> dims, bool keepdim) {
  if (autocasts("sum", {&x})) return sum(autocast("sum", x), std::move(dims), keepdim);
  check_given("sum", x);
  return sum_or_mean("sum", ReduceOp::sum, widened(x), dims, keepdim);
}

Tensor mean(const Tensor& x, std::vector<int> dims, bool keepdim) {
  check_floating("mean", x);
  return sum_or_mean("mean", ReduceOp::mean, x, dims, keepdim);
}

namespace {

// max or min over `dims`; equal elements share the gradient. PyTorch's max() of everything
// (`whole`) shares it among NaN too, where its amax() makes all of it NaN.
Tensor shared_extreme(const char* name, ReduceOp op, const Tensor& x, const std::vector<int>& dims,
                      bool keepdim, bool whole = false) {
  const Reduced r = reduced(name, x, dims, keepdim);
  LOCKSTEP_CHECK(r.count > 0, name, ": no elements to choose from in shape ", x.shape());
  const Array y = reduce_array(name, op, x.value(), r);
  return record({name}, y, {&x},
                [kept = r.kept, dims = r.dims, whole, x = Saved(x, x.requires_grad()),
                 y = Saved(y, x.requires_grad())](const Tensor& dy, Gradients& out) {
                  out.add(0, [&] {
                    const Tensor best = reshape(*y, kept), values = x->detach();
                    Tensor chosen = values == best;
                    if (whole) chosen = chosen | (isnan(values) & isnan(best));
                    const Tensor equal = to(chosen, dy.dtype());
                    const Tensor share = dims.empty() ? equal : equal / sum(equal, dims, true);
                    return reshape(dy, kept) * share;
                  });
                });
}

ValuesIndices first_extreme(const char* name, bool largest, const Tensor& x, int dim,
                            bool keepdim) {
  dim = dim_of(name, x, dim);
  if (x.rank() == 0) return {squeeze(unsqueeze(x, 0), 0), Array::zeros({}, DType::i64, x.device())};
  const Tensor index = kernels::arg_reduce(name, largest, x.value(), dim);
  const Tensor values = gather(x, dim, index);
  if (keepdim) return {values, index};
  return {squeeze(values, dim), squeeze(index, dim)};
}

Tensor arg_extreme(const char* name, bool largest, const Tensor& x, std::optional<int> dim,
                   bool keepdim) {
  check_given(name, x);
  const int at = dim ? dim_of(name, x, *dim) : 0;
  const bool whole = !dim || x.rank() == 0;
  const Array values = whole ? x.value().reshape({x.elements()}) : x.value();
  const Array index = kernels::arg_reduce(name, largest, values, at);
  Shape shape = whole ? Shape::filled(keepdim ? x.rank() : 0, 1) : index.shape();
  if (!whole && !keepdim) shape.erase(at);
  return constant({name}, index.reshape(shape), {&x});
}

}  // namespace

Tensor amax(const Tensor& x, std::vector<int> dims, bool keepdim) {
  return shared_extreme("amax", ReduceOp::max, x, dims, keepdim);
}
Tensor amin(const Tensor& x, std::vector<int> dims, bool keepdim) {
  return shared_extreme("amin", ReduceOp::min, x, dims, keepdim);
}
Tensor max(const Tensor& x) { return shared_extreme("max", ReduceOp::max, x, {}, false, true); }
Tensor min(const Tensor& x) { return shared_extreme("min", ReduceOp::min, x, {}, false, true); }
ValuesIndices max(const Tensor& x, int dim, bool keepdim) {
  return first_extreme("max", true, x, dim, keepdim);
}
ValuesIndices min(const Tensor& x, int dim, bool keepdim) {
  return first_extreme("min", false, x, dim, keepdim);
}
Tensor argmax(const Tensor& x, std::optional<int> dim, bool keepdim) {
  return arg_extreme("argmax", true, x, dim, keepdim);
}
Tensor argmin(const Tensor& x, std::optional<int> dim, bool keepdim) {
  return arg_extreme("argmin", false, x, dim, keepdim);
}

namespace {

Tensor truth(const char* name, ReduceOp op, const Tensor& x, const std::vector<int>& dims,
             bool keepdim) {
  const Reduced r = reduced(name, x, dims, keepdim);
  const DType dtype = x.dtype() == DType::u8 ? DType::u8 : DType::boolean;
  if (r.count == 0) {
    const double nothing = op == ReduceOp::min ? 1 : 0;
    return constant({name}, Array::full(r.result, nothing, dtype, x.device()), {&x});
  }
  const Array is_true = kernels::cast(x.value(), DType::boolean);
  return constant({name}, kernels::cast(reduce_array(name, op, is_true, r), dtype), {&x});
}

}  // namespace

Tensor all(const Tensor& x, std::vector<int> dims, bool keepdim) {
  return truth("all", ReduceOp::min, x, dims, keepdim);
}
Tensor any(const Tensor& x, std::vector<int> dims, bool keepdim) {
  return truth("any", ReduceOp::max, x, dims, keepdim);
}

}  // namespace lockstep
