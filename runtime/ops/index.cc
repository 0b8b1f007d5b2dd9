#include "lockstep/runtime/ops/index.h"

#include "lockstep/runtime/capture.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::kernels {

Array as_index(const char* name, const Array& index, const Array& x) {
  LOCKSTEP_CHECK(index && x, name, ": an empty tensor");
  LOCKSTEP_CHECK(index.dtype() == DType::i64 || index.dtype() == DType::i32, name, ": indices of ",
                 index.dtype(), ", expected i64");
  LOCKSTEP_CHECK(index.device() == x.device(), name, ": indices on ", index.device().to_string(),
                 " for values on ", x.device().to_string());
  return cast(index, DType::i64);
}

bool known_within(const Array& index, int64_t count, std::optional<int64_t> except) {
  const Storage::Extent places{0, count - 1};
  const bool within = index.storage()->known_within(places, except);
  if (within && context().capture != nullptr) {
    context().capture->bounds.push_back({index.storage(), places, except});
  }
  return within;
}

void check_range(const char* name, const Array& index, int64_t count) {
  if (index.elements() == 0 || known_within(index, count)) return;
  int64_t smallest = 0, largest = 0;
  of(index).extent(contiguous(index).view(), &smallest, &largest);
  LOCKSTEP_CHECK(smallest >= 0 && largest < count, name, ": index ",
                 smallest < 0 ? smallest : largest, " is outside [0, ", count, ")");
}

namespace {

void check_fits(const char* name, const Array& index, const Array& x, int dim) {
  Shape shape = x.shape();
  const bool inside = dim >= 0 && dim < shape.rank() && dim < index.rank();
  if (inside) shape[dim] = index.dim(dim);
  LOCKSTEP_CHECK(inside && shape == index.shape(), name, ": indices of shape ", index.shape(),
                 " for values of shape ", x.shape(), " along dimension ", dim);
}

}  // namespace

Array gather(const Array& x, int dim, const Array& index) {
  const Operation operation("gather");
  check_fits("gather", index, x, dim);
  Array out = Array::empty(index.shape(), x.dtype(), x.device());
  of(x).gather(x.view(), dim, index.view(), out.view());
  return out;
}

void scatter_add(const Array& x, int dim, const Array& index, const Array& out) {
  const Operation operation("scatter_add");
  check_fits("scatter_add", index, out, dim);
  LOCKSTEP_CHECK(
      index.shape() == x.shape() && x.dtype() == out.dtype() && x.device() == out.device(),
      "scatter_add: ", x.dtype(), " values of shape ", x.shape(), " at indices of shape ",
      index.shape(), " of a ", out.dtype(), " array");
  of(out).scatter_add(x.view(), dim, index.view(), out.view());
  out.storage()->bump_version();
}

Array nonzero(const char* name, const Array& mask) {
  const Operation operation(name);
  LOCKSTEP_CHECK(mask.dtype() == DType::boolean, name, ": a mask of ", mask.dtype(),
                 ", expected bool");
  const Array dense = contiguous(mask);
  const int64_t count = of(mask).nonzero(dense.view(), View());
  Array places = Array::empty({count}, DType::i64, mask.device());
  if (count > 0) of(mask).nonzero(dense.view(), places.view());
  return places;
}

Array arg_reduce(const char* name, bool largest, const Array& x, int dim) {
  const Operation operation(name);
  LOCKSTEP_CHECK(x.dim(dim) > 0, name, ": no elements in dimension ", dim, " of shape ", x.shape());
  Shape shape = x.shape();
  shape[dim] = 1;
  Array index = Array::empty(shape, DType::i64, x.device());
  of(x).arg_reduce(largest, x.view(), dim, index.view());
  return index;
}

Array sort(const char* name, const Array& x, int dim, int64_t k, bool descending) {
  const Operation operation(name);
  LOCKSTEP_CHECK(k >= 0 && k <= x.dim(dim), name, ": ", k, " elements of dimension ", dim,
                 " of shape ", x.shape());
  const Array last = x.transpose(dim, x.rank() - 1);
  const int64_t width = last.dim(-1);
  const int64_t rows = width == 0 ? 0 : x.elements() / width;
  Shape shape = last.shape();
  shape[shape.rank() - 1] = k;
  Array index = Array::empty(shape, DType::i64, x.device());
  of(x).sort(contiguous(last).try_view({rows, width}).view(), descending,
             index.try_view({k == 0 ? 0 : rows, k}).view());
  return index.transpose(dim, x.rank() - 1);
}

Array recurrence(const Array& a, const Array& b, int dim, bool reverse) {
  const Operation operation("recurrence");
  LOCKSTEP_CHECK(!a || (a.shape() == b.shape() && a.dtype() == b.dtype()), "recurrence: factors ",
                 a.dtype(), " ", a.shape(), " for terms ", b.dtype(), " ", b.shape());
  Array s = Array::empty(b.shape(), b.dtype(), b.device());
  of(b).recurrence(a ? a.view() : View(), b.view(), dim, reverse, s.view());
  return s;
}

}  // namespace lockstep::kernels
