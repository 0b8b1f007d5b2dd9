#include "lockstep/autograd/ops/shape.h"

#include <algorithm>
#include <numeric>

#include "lockstep/autograd/ops/check.h"
#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/ops/reduce.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "lockstep/runtime/ops/layout.h"

namespace lockstep {

using internal::check_given;
using internal::dim_of;

Tensor Tensor::transpose(int a, int b) const { return lockstep::transpose(*this, a, b); }

namespace {

Tensor record_reshape(const char* name, const Tensor& x, Array value) {
  return record({name}, std::move(value), {&x},
                [from = x.shape()](const Tensor& dy, Gradients& out) {
                  out.add(0, [&] { return reshape(dy, from); });
                });
}

}  // namespace

Tensor reshape(const Tensor& x, const Shape& shape) {
  check_given("reshape", x);
  return record_reshape("reshape", x, x.value().reshape(shape));
}

Tensor view(const Tensor& x, const Shape& shape) {
  check_given("view", x);
  Array window = x.value().try_view(shape);
  // What lies between rows is the device's choice, not the program's.
  if (!window && kernels::has_padded_rows(x.value())) window = x.value().reshape(shape);
  LOCKSTEP_CHECK(window, "view: no window of shape ", shape, " on shape ", x.shape(),
                 " with strides ", x.value().strides(), "; reshape copies");
  return record_reshape("view", x, std::move(window));
}

Tensor flatten(const Tensor& x, int start, int end) {
  start = dim_of("flatten", x, start);
  end = dim_of("flatten", x, end);
  LOCKSTEP_CHECK(start <= end, "flatten: dimensions ", start, " to ", end, " of shape ", x.shape());
  Shape shape;
  for (int i = 0; i < start; ++i) shape.append(x.dim(i));
  int64_t joined = 1;
  for (int i = start; i <= end && i < x.rank(); ++i) joined *= x.dim(i);
  shape.append(joined);
  for (int i = end + 1; i < x.rank(); ++i) shape.append(x.dim(i));
  return shape == x.shape() ? x : reshape(x, shape);
}

Tensor permute(const Tensor& x, std::vector<int> order) {
  check_given("permute", x);
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
  a = dim_of("transpose", x, a);
  b = dim_of("transpose", x, b);
  if (x.rank() == 0) return x;
  return record({"transpose"}, x.value().transpose(a, b), {&x},
                [a, b](const Tensor& dy, Gradients& out) {
                  out.add(0, [&] { return transpose(dy, a, b); });
                });
}

Tensor contiguous(const Tensor& x) {
  check_given("contiguous", x);
  if (x.value().contiguous()) return x;
  return record({"contiguous"}, kernels::copy(x.value()), {&x},
                [](const Tensor& dy, Gradients& out) { out.add(0, dy); });
}

Tensor unsqueeze(const Tensor& x, int dim) {
  check_given("unsqueeze", x);
  dim = normalize_dim("unsqueeze", dim, x.rank() + 1);
  return record(
      {"unsqueeze"}, x.value().unsqueeze(dim), {&x},
      [dim](const Tensor& dy, Gradients& out) { out.add(0, [&] { return squeeze(dy, dim); }); });
}

Tensor squeeze(const Tensor& x, int dim) {
  dim = dim_of("squeeze", x, dim);
  if (x.rank() == 0 || x.dim(dim) != 1) return x;
  return record({"squeeze"}, x.value().squeeze(dim), {&x}, [dim](const Tensor& dy, Gradients& out) {
    out.add(0, [&] { return unsqueeze(dy, dim); });
  });
}

Tensor squeeze(const Tensor& x, std::vector<int> dims) {
  check_given("squeeze", x);
  for (int& dim : dims) dim = dim_of("squeeze", x, dim);
  std::sort(dims.begin(), dims.end());
  LOCKSTEP_CHECK(std::adjacent_find(dims.begin(), dims.end()) == dims.end(),
                 "squeeze: a dimension of shape ", x.shape(), " named twice");
  Shape shape;
  for (int i = 0; i < x.rank(); ++i) {
    const bool named = std::find(dims.begin(), dims.end(), i) != dims.end();
    if (!named || x.dim(i) != 1) shape.append(x.dim(i));
  }
  return shape == x.shape() ? x : reshape(x, shape);
}

Tensor squeeze(const Tensor& x) {
  std::vector<int> all(static_cast<size_t>(x.rank()));
  std::iota(all.begin(), all.end(), 0);
  return squeeze(x, all);
}

Tensor expand(const Tensor& x, const Shape& shape) {
  check_given("expand", x);
  Shape full = shape;
  const int lead = full.rank() - x.rank();
  for (int i = 0; i < full.rank(); ++i) {
    if (full[i] == -1 && i >= lead) full[i] = x.dim(i - lead);
    LOCKSTEP_CHECK(full[i] >= 0, "expand: shape ", x.shape(), " to ", shape);
  }
  return record({"expand"}, x.value().expand(full), {&x},
                [from = x.shape()](const Tensor& dy, Gradients& out) {
                  out.add(0, [&](Into into) -> Tensor {
                    if (recording() || dy.shape() == from) return sum_to(dy, from);
                    return kernels::sum_to(dy.value(), from, into);
                  });
                });
}

namespace {

// Places start, start + step, … of a dimension.
struct Places {
  int dim;
  int64_t start, length, step;

  Array of(const Array& x) const { return x.narrow(dim, start, length, step); }
};

Tensor take(const char* name, const Tensor& x, const Places& places);

// Zeros of `shape` with x at the places: take's transpose.
Tensor widen(const Tensor& x, const Places& places, const Shape& shape) {
  Array value = Array::zeros(shape, x.dtype(), x.device());
  kernels::copy_into(x.value(), places.of(value));
  return record({"widen"}, std::move(value), {&x}, [places](const Tensor& dy, Gradients& out) {
    out.add(0, [&] { return take("narrow", dy, places); });
  });
}

Tensor take(const char* name, const Tensor& x, const Places& places) {
  return record({name}, places.of(x.value()), {&x},
                [places, shape = x.shape()](const Tensor& dy, Gradients& out) {
                  out.add(0, [&](Into into) -> Tensor {
                    if (recording() || into.beta != 1) return widen(dy, places, shape);
                    kernels::scale_add(1, dy.value(), 1, places.of(into.destination));
                    return into.destination;
                  });
                });
}

}  // namespace

Tensor narrow(const Tensor& x, int dim, int64_t start, int64_t length) {
  check_given("narrow", x);
  dim = normalize_dim("narrow", dim, x.rank());
  return take("narrow", x, {dim, start < 0 ? start + x.dim(dim) : start, length, 1});
}

Tensor slice(const Tensor& x, int dim, std::optional<int64_t> start, std::optional<int64_t> stop,
             int64_t step) {
  check_given("slice", x);
  dim = normalize_dim("slice", dim, x.rank());
  LOCKSTEP_CHECK(step > 0, "slice: a step of ", step, ", expected a positive one");
  const int64_t size = x.dim(dim);
  const auto bound = [&](int64_t place) {
    return std::clamp<int64_t>(place < 0 ? place + size : place, 0, size);
  };
  const int64_t first = bound(start.value_or(0));
  const int64_t length = std::max<int64_t>(0, bound(stop.value_or(size)) - first);
  return take("slice", x, {dim, first, (length + step - 1) / step, step});
}

Tensor select(const Tensor& x, int dim, int64_t index) {
  check_given("select", x);
  dim = normalize_dim("select", dim, x.rank());
  const int64_t size = x.dim(dim);
  LOCKSTEP_CHECK(index >= -size && index < size, "select: place ", index, " of dimension ", dim,
                 " of shape ", x.shape());
  return squeeze(take("select", x, {dim, index < 0 ? index + size : index, 1, 1}), dim);
}

std::vector<Tensor> unbind(const Tensor& x, int dim) {
  check_given("unbind", x);
  dim = normalize_dim("unbind", dim, x.rank());
  std::vector<Tensor> parts =
      split(x, std::vector<int64_t>(static_cast<size_t>(x.dim(dim)), 1), dim);
  for (Tensor& part : parts) part = squeeze(part, dim);
  return parts;
}

std::vector<Tensor> chunk(const Tensor& x, int64_t count, int dim) {
  check_given("chunk", x);
  dim = normalize_dim("chunk", dim, x.rank());
  LOCKSTEP_CHECK(count > 0, "chunk: ", count, " pieces, expected at least one");
  const int64_t size = x.dim(dim);
  if (size == 0) return split(x, std::vector<int64_t>(static_cast<size_t>(count), 0), dim);
  return split(x, (size - 1) / count + 1, dim);
}

std::vector<Tensor> split(const Tensor& x, int64_t size, int dim) {
  check_given("split", x);
  dim = normalize_dim("split", dim, x.rank());
  const int64_t all = x.dim(dim);
  LOCKSTEP_CHECK(size > 0 || (size == 0 && all == 0), "split: pieces of ", size, " of dimension ",
                 dim, " of shape ", x.shape());
  std::vector<int64_t> sizes;
  for (int64_t start = 0; start < all; start += size) sizes.push_back(std::min(size, all - start));
  if (sizes.empty()) sizes.push_back(0);
  return split(x, sizes, dim);
}

std::vector<Tensor> split(const Tensor& x, const std::vector<int64_t>& sizes, int dim) {
  check_given("split", x);
  dim = normalize_dim("split", dim, x.rank());
  std::vector<Places> places;
  int64_t start = 0;
  for (int64_t size : sizes) {
    LOCKSTEP_CHECK(size >= 0 && size <= x.dim(dim), "split: a piece of ", size, " of dimension ",
                   dim, " of shape ", x.shape());
    places.push_back({dim, start, size, 1});
    start += size;
  }
  LOCKSTEP_CHECK(start == x.dim(dim), "split: pieces that add up to ", start, " of dimension ", dim,
                 " of shape ", x.shape());
  std::vector<Array> parts;
  for (const Places& place : places) parts.push_back(place.of(x.value()));
  const Tensor* inputs[] = {&x};
  return record_many(
      {"split"}, std::move(parts), inputs,
      [places = std::move(places), shape = x.shape()](std::span<const Tensor> dys, Gradients& out) {
        out.add(0, [&]() -> Tensor {
          Tensor total;
          for (size_t i = 0; i < dys.size(); ++i) {
            if (!dys[i]) continue;
            if (!recording() && total) {
              kernels::copy_into(dys[i].value(), places[i].of(total.value()));
              continue;
            }
            const Tensor part = widen(dys[i], places[i], shape);
            total = total ? total + part : part;
          }
          return total;
        });
      });
}

}  // namespace lockstep
