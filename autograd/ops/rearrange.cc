#include <algorithm>
#include <limits>
#include <numeric>

#include "lockstep/autograd/ops/check.h"
#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/ops/index.h"
#include "lockstep/autograd/ops/reduce.h"
#include "lockstep/autograd/ops/shape.h"
#include "lockstep/autograd/promotion.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "lockstep/runtime/ops/index.h"

namespace lockstep {

using internal::check_given;
using internal::dim_of;

Tensor flip(const Tensor& x, std::vector<int> dims) {
  check_given("flip", x);
  const Array& value = x.value();
  Shape strides = value.strides();
  int64_t offset = value.offset();
  std::vector<bool> seen(kMaxRank);
  for (int& dim : dims) {
    dim = dim_of("flip", x, dim);
    LOCKSTEP_CHECK(!seen[dim], "flip: dimension ", dim, " named twice");
    seen[dim] = true;
    if (x.elements() == 0 || x.rank() == 0) continue;
    offset += (x.dim(dim) - 1) * strides[dim];
    strides[dim] = -strides[dim];
  }
  // Negative strides end here: kernels see the copy.
  Array flipped =
      kernels::copy(Array(value.storage(), value.dtype(), value.shape(), strides, offset));
  return record({"flip"}, std::move(flipped), {&x},
                [dims = std::move(dims)](const Tensor& dy, Gradients& out) {
                  out.add(0, [&] { return flip(dy, dims); });
                });
}

Tensor roll(const Tensor& x, std::vector<int64_t> shifts, std::vector<int> dims) {
  check_given("roll", x);
  if (dims.empty()) {
    LOCKSTEP_CHECK(shifts.size() == 1, "roll: ", shifts.size(),
                   " shifts without dimensions, expected one");
    return reshape(roll(flatten(x), shifts, {0}), x.shape());
  }
  LOCKSTEP_CHECK(shifts.size() == dims.size(), "roll: ", shifts.size(), " shifts for ", dims.size(),
                 " dimensions");
  Tensor result = x;
  for (size_t i = 0; i < dims.size(); ++i) {
    const int dim = normalize_dim("roll", dims[i], x.rank());
    const int64_t size = x.dim(dim);
    const int64_t shift = size == 0 ? 0 : (shifts[i] % size + size) % size;
    if (shift == 0) continue;
    result =
        cat({narrow(result, dim, size - shift, shift), narrow(result, dim, 0, size - shift)}, dim);
  }
  return result;
}

namespace {

// Tensors of one dtype, in memory one after the other along `dim`.
Tensor join(const std::vector<Tensor>& tensors, int dim, Shape shape) {
  Array value = Array::empty(shape, tensors[0].dtype(), tensors[0].device());
  std::vector<const Tensor*> inputs;
  std::vector<int64_t> starts;
  int64_t start = 0;
  for (const Tensor& x : tensors) {
    kernels::copy_into(x.value(), value.narrow(dim, start, x.dim(dim)));
    inputs.push_back(&x);
    starts.push_back(start);
    start += x.dim(dim);
  }
  starts.push_back(start);
  return record_many(
      {"cat"}, {std::move(value)}, inputs,
      [starts = std::move(starts), dim](std::span<const Tensor> dys, Gradients& out) {
        for (size_t i = 0; i + 1 < starts.size(); ++i) {
          out.add(static_cast<int>(i),
                  [&] { return narrow(dys[0], dim, starts[i], starts[i + 1] - starts[i]); });
        }
      })[0];
}

}  // namespace

Tensor cat(const std::vector<Tensor>& tensors, int dim) {
  LOCKSTEP_CHECK(!tensors.empty(), "cat: no tensors");
  std::vector<Tensor> parts;
  for (const Tensor& x : tensors) {
    check_given("cat", x);
    LOCKSTEP_CHECK(x.rank() > 0, "cat: a tensor of rank 0, expected at least 1 (stack joins them)");
    if (x.shape() != Shape{0}) parts.push_back(x);
  }
  if (parts.empty()) parts.push_back(tensors[0]);
  const Shape first = parts[0].shape();
  LOCKSTEP_CHECK(first.rank() > 0, "cat: a tensor without dimensions");
  dim = std::max(0, normalize_dim("cat", dim, first.rank()));
  Shape shape = first;
  shape[dim] = 0;
  DType dtype = tensors[0].dtype();
  for (const Tensor& x : tensors) dtype = promote_types(dtype, x.dtype());
  for (Tensor& x : parts) {
    Shape expected = first;
    if (x.rank() == first.rank()) expected[dim] = x.dim(dim);
    LOCKSTEP_CHECK(x.shape() == expected, "cat: shapes ", first, " and ", x.shape(),
                   " along dimension ", dim, ", expected equal sizes in the others");
    LOCKSTEP_CHECK(x.device() == parts[0].device(), "cat: devices ", parts[0].device().to_string(),
                   " and ", x.device().to_string());
    shape[dim] += x.dim(dim);
    x = to(x, dtype);
  }
  return join(parts, dim, shape);
}

Tensor stack(const std::vector<Tensor>& tensors, int dim) {
  LOCKSTEP_CHECK(!tensors.empty(), "stack: no tensors");
  std::vector<Tensor> parts;
  for (const Tensor& x : tensors) {
    check_given("stack", x);
    LOCKSTEP_CHECK(x.shape() == tensors[0].shape(), "stack: shapes ", tensors[0].shape(), " and ",
                   x.shape(), ", expected equal ones");
    parts.push_back(unsqueeze(x, dim));
  }
  return cat(parts, normalize_dim("stack", dim, tensors[0].rank() + 1));
}

namespace {

struct Padding {
  int dim;
  int64_t before, after;
};

std::vector<Padding> padding_of(const Tensor& x, const std::vector<int64_t>& pads) {
  LOCKSTEP_CHECK(pads.size() % 2 == 0 && static_cast<int>(pads.size()) <= 2 * x.rank(),
                 "pad: ", pads.size(), " amounts for shape ", x.shape(),
                 ", expected two a dimension");
  std::vector<Padding> all;
  for (size_t i = 0; i < pads.size(); i += 2) {
    const int dim = x.rank() - 1 - static_cast<int>(i / 2);
    constexpr int64_t kMost = int64_t{1} << 48;
    LOCKSTEP_CHECK(
        std::max(pads[i], pads[i + 1]) < kMost && std::min(pads[i], pads[i + 1]) > -kMost,
        "pad: amounts ", pads[i], " and ", pads[i + 1], " are beyond any array");
    const int64_t kept =
        x.dim(dim) + std::min<int64_t>(0, pads[i]) + std::min<int64_t>(0, pads[i + 1]);
    LOCKSTEP_CHECK(kept >= 0, "pad: amounts ", pads[i], " and ", pads[i + 1], " for dimension ",
                   dim, " of shape ", x.shape());
    all.push_back({dim, pads[i], pads[i + 1]});
  }
  return all;
}

Tensor pad_constant(const Tensor& x, const std::vector<int64_t>& pads, double value) {
  Shape shape = x.shape();
  Array from = x.value();
  std::vector<int64_t> back;
  const std::vector<Padding> all = padding_of(x, pads);
  for (const Padding& p : all) {
    shape[p.dim] += p.before + p.after;
    const int64_t start = std::max<int64_t>(0, -p.before);
    from = from.narrow(p.dim, start, x.dim(p.dim) - start - std::max<int64_t>(0, -p.after));
    back.insert(back.end(), {-p.before, -p.after});
  }
  Array result = Array::full(shape, value, x.dtype(), x.device());
  Array middle = result;
  for (const Padding& p : all) {
    middle = middle.narrow(p.dim, std::max<int64_t>(0, p.before), from.dim(p.dim));
  }
  kernels::copy_into(from, middle);
  return record({"pad"}, std::move(result), {&x},
                [back = std::move(back)](const Tensor& dy, Gradients& out) {
                  out.add(0, [&] { return pad(dy, back); });
                });
}

Tensor pad_reflect(const Tensor& x, const std::vector<int64_t>& pads) {
  Tensor result = x;
  for (const auto& [dim, before, after] : padding_of(x, pads)) {
    const int64_t size = x.dim(dim);
    LOCKSTEP_CHECK(std::max(before, after) < std::max<int64_t>(1, size), "pad: reflection by ",
                   before, " and ", after, " of dimension ", dim, " of shape ", x.shape(),
                   ", expected less than its size");
    const int64_t start = std::max<int64_t>(0, -before);
    const int64_t length = size - start - std::max<int64_t>(0, -after);
    std::vector<Tensor> parts{narrow(result, dim, start, length)};
    if (before > 0) parts.insert(parts.begin(), flip(narrow(result, dim, 1, before), {dim}));
    if (after > 0) parts.push_back(flip(narrow(result, dim, size - 1 - after, after), {dim}));
    result = parts.size() > 1 ? cat(parts, dim) : parts[0];
  }
  return result;
}

// where(keep, x, 0) with keep a function of column - row.
template <class F>
Tensor triangle(const char* name, const Tensor& x, const F& keep) {
  check_given(name, x);
  LOCKSTEP_CHECK(x.rank() >= 2, name, ": a tensor of shape ", x.shape(),
                 ", expected at least 2 dimensions");
  const auto range = [&](int64_t n, const Shape& shape) {
    std::vector<int64_t> values(static_cast<size_t>(n));
    std::iota(values.begin(), values.end(), 0);
    return Tensor(Array::from(values, shape, x.device()));
  };
  const Tensor rows = range(x.dim(-2), {x.dim(-2), 1}), columns = range(x.dim(-1), {x.dim(-1)});
  return where(keep(rows, columns), x, Tensor(false));
}

}  // namespace

Tensor pad(const Tensor& x, const std::vector<int64_t>& pads, PadMode mode, double value) {
  check_given("pad", x);
  return mode == PadMode::constant ? pad_constant(x, pads, value) : pad_reflect(x, pads);
}

Tensor tril(const Tensor& x, int64_t diagonal) {
  return triangle("tril", x, [&](const Tensor& row, const Tensor& column) {
    return column <= row + Tensor(diagonal);
  });
}

Tensor triu(const Tensor& x, int64_t diagonal) {
  return triangle("triu", x, [&](const Tensor& row, const Tensor& column) {
    return column >= row + Tensor(diagonal);
  });
}

namespace {

// Every element of `dim` n times, next to each other or, when `whole`, the dimension as a whole.
Tensor repeat_dim(const Tensor& x, int dim, int64_t n, bool whole) {
  if (n == 1) return x;
  int64_t inner = 1;
  for (int i = dim + 1; i < x.rank(); ++i) inner = saturating_product(inner, x.dim(i));
  if (!whole && n > 0 && n <= 16 && inner < 8) {
    // Strided copies of all elements beat runs of n.
    return flatten(stack(std::vector<Tensor>(static_cast<size_t>(n), x), dim + 1), dim, dim + 1);
  }
  Shape wide = x.shape(), result = x.shape();
  wide.insert(whole ? dim : dim + 1, n);
  result[dim] = saturating_product(result[dim], n);
  return reshape(expand(unsqueeze(x, whole ? dim : dim + 1), wide), result);
}

}  // namespace

Tensor repeat(const Tensor& x, const std::vector<int64_t>& repeats) {
  check_given("repeat", x);
  LOCKSTEP_CHECK(static_cast<int>(repeats.size()) >= x.rank(), "repeat: ", repeats.size(),
                 " counts for shape ", x.shape());
  Shape shape = x.shape();
  while (shape.rank() < static_cast<int>(repeats.size())) shape.insert(0, 1);
  Tensor result = reshape(x, shape);
  for (int i = shape.rank() - 1; i >= 0; --i) {
    LOCKSTEP_CHECK(repeats[i] >= 0, "repeat: ", repeats[i], " copies");
    result = repeat_dim(result, i, repeats[i], true);
  }
  return result;
}

Tensor repeat_interleave(const Tensor& x, int64_t n, std::optional<int> dim) {
  check_given("repeat_interleave", x);
  LOCKSTEP_CHECK(n >= 0, "repeat_interleave: ", n, " copies");
  if (!dim) return repeat_dim(flatten(x), 0, n, false);
  return repeat_dim(x, normalize_dim("repeat_interleave", *dim, x.rank()), n, false);
}

Tensor repeat_interleave(const Tensor& x, const Tensor& repeats, std::optional<int> dim) {
  check_given("repeat_interleave", x);
  check_given("repeat_interleave", repeats);
  if (!dim) return repeat_interleave(flatten(x), repeats, 0);
  const int at = normalize_dim("repeat_interleave", *dim, x.rank());
  const bool integer = repeats.dtype() == DType::i64 || repeats.dtype() == DType::i32;
  LOCKSTEP_CHECK(integer && repeats.rank() <= 1 &&
                     (repeats.elements() == 1 || repeats.elements() == x.dim(at)),
                 "repeat_interleave: ", repeats.dtype(), " counts of shape ", repeats.shape(),
                 " for dimension ", at, " of shape ", x.shape(), ", expected i64, one or all");
  // Place i of the result is how many elements have begun by then, less one: each but the first
  // adds 1 where it begins (elements without copies add to the same place as their successor).
  const Tensor counts = expand(to(repeats.detach(), DType::i64), {x.dim(at)});
  kernels::check_range("repeat_interleave", counts.value(), std::numeric_limits<int64_t>::max());
  if (x.dim(at) == 0) return x;
  const Tensor ends = cumsum(counts, 0);
  const int64_t total = narrow(ends, 0, -1, 1).item<int64_t>();
  const Tensor begun = Array::zeros({total + 1}, DType::i64, x.device());
  const Tensor begins = narrow(ends, 0, 0, x.dim(at) - 1);
  const Tensor one = Array::full({}, 1, DType::i64, x.device());
  const Tensor places = cumsum(scatter_add(begun, 0, begins, expand(one, begins.shape())), 0);
  return index_select(x, at, narrow(places, 0, 0, total));
}

}  // namespace lockstep
