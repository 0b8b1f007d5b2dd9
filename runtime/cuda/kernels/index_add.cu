#include "lockstep/runtime/cuda/kernels/dimensions.h"
#include "lockstep/runtime/cuda/kernels/elementwise.h"
#include "lockstep/runtime/cuda/kernels/index.h"
#include "lockstep/runtime/cuda/kernels/segments.h"
#include "lockstep/runtime/cuda/sort.h"

namespace lockstep::cuda {
namespace {

template <class Visit>
void with_sum_type(DType dtype, const Visit& visit) {
  if (dtype == DType::f64) {
    visit(double{});
  } else if (is_floating(dtype)) {
    visit(float{});
  } else {
    visit(int64_t{});
  }
}

// Keys in order, and the row of each.
struct Sorted {
  Sorted(const int64_t* unsorted, int64_t rows, int64_t bound, Queue& queue)
      : memory(queue, static_cast<size_t>(2 * rows) * sizeof(int64_t)),
        keys(memory.as<int64_t>()),
        order(keys + rows),
        count(rows) {
    sort_keys(unsorted, rows, bound, keys, order, queue);
  }

  Scratch memory;
  int64_t* keys;
  int64_t* order;
  int64_t count;
};

// out[key] = beta * out[key] + x[row] along `dim`.
void add_rows(const View& x, int dim, const Sorted& sorted, const View& out, double beta,
              Queue& queue) {
  const int64_t x_step = x.strides[dim], out_step = out.strides[dim];
  View lines[] = {without_dim(out, dim), without_dim(x, dim)};
  sort_dimensions(lines);
  const bool packs = out.dtype != DType::f64 && is_floating(out.dtype) &&
                     has_packs(lines[0], kPack) && has_packs(lines[1], kPack) &&
                     x_step % kPack == 0 && out_step % kPack == 0;
  if (packs) {
    for (View& view : lines) view = first_of_packs(view, kPack);
  }
  const View* const operands[] = {&lines[1], &lines[0]};
  const ColumnLayout layout{x_step, out_step, Strided<2>(operands)};
  const int64_t columns = lines[0].elements();
  if (packs) {
    return sum_segments<float, kPack>(x, out, sorted.keys, sorted.order, sorted.count, columns,
                                      beta, layout, queue);
  }
  with_sum_type(out.dtype, [&]<class C>(C) {
    sum_segments<C, 1>(x, out, sorted.keys, sorted.order, sorted.count, columns, beta, layout,
                       queue);
  });
}

// The key of each element of x in row-major order, see ElementLayout.
struct KeysBody {
  const int64_t* index;
  Strided<1> layout;
  Divisor inner, count;  // elements of x inside the chosen dimension, and in it
  int64_t size;          // of out there
  int64_t* keys;

  LOCKSTEP_HD void one(uint32_t element) const {
    int64_t at[1];
    layout.offsets(element, at);
    const uint32_t outer = inner.divide(element);
    const uint32_t line = count.divide(outer) * inner.value + (element - outer * inner.value);
    keys[element] = int64_t{line} * size + index[at[0]];
  }
};

// Any index, by the order of the places that the elements go to.
void add_elements(const View& x, int dim, const View& index, const View& out, Queue& queue) {
  const int64_t elements = x.elements();
  int64_t inner = 1;
  for (int d = dim + 1; d < x.rank; ++d) inner *= x.shape[d];
  const View* const index_operand[] = {&index};
  const View* const x_operand[] = {&x};
  const View lines = without_dim(out, dim);
  const View* const line_operand[] = {&lines};
  const Scratch keys(queue, static_cast<size_t>(elements) * sizeof(int64_t));
  launch_elements(
      KeysBody{index.as<int64_t>(), Strided<1>(index_operand),
               Divisor(static_cast<uint32_t>(inner)), Divisor(static_cast<uint32_t>(x.shape[dim])),
               out.shape[dim], keys.as<int64_t>()},
      elements, queue);
  const Sorted sorted(keys.as<int64_t>(), elements, out.elements(), queue);
  const ElementLayout layout{Strided<1>(x_operand), Strided<1>(line_operand), out.shape[dim],
                             out.strides[dim]};
  with_sum_type(out.dtype, [&]<class C>(C) {
    sum_segments<C, 1>(x, out, sorted.keys, sorted.order, elements, 1, 1, layout, queue);
  });
}

// A thread a line, one element after the other. Operands of the layout: out, x, index, each without
// the chosen dimension.
template <class C>
struct LineBody {
  Operand x, out;
  const int64_t* index;
  int64_t count;
  int64_t out_step, x_step, index_step;
  bool rounds;  // out cannot hold a sum on its way
  Strided<3> lines;

  LOCKSTEP_HD void one(uint32_t line) const {
    int64_t at[3];
    lines.offsets(line, at);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t place = index[at[2] + i * index_step];
      if (rounds && came_before(i, place, at[2])) continue;
      C sum = out.get<C>(at[0] + place * out_step) + x.get<C>(at[1] + i * x_step);
      for (int64_t j = i + 1; rounds && j < count; ++j) {
        if (index[at[2] + j * index_step] == place) sum += x.get<C>(at[1] + j * x_step);
      }
      out.put<C>(at[0] + place * out_step, sum);
    }
  }
  LOCKSTEP_HD bool came_before(int64_t i, int64_t place, int64_t start) const {
    for (int64_t j = 0; j < i; ++j) {
      if (index[start + j * index_step] == place) return true;
    }
    return false;
  }
};

void add_lines(const View& x, int dim, const View& index, const View& out, Queue& queue) {
  View lines[] = {without_dim(out, dim), without_dim(x, dim), without_dim(index, dim)};
  sort_dimensions(lines);
  const View* const operands[] = {&lines[0], &lines[1], &lines[2]};
  with_sum_type(out.dtype, [&]<class C>(C) {
    launch_elements(
        LineBody<C>{Operand(x), Operand(out), index.as<int64_t>(), x.shape[dim], out.strides[dim],
                    x.strides[dim], index.strides[dim],
                    is_floating(out.dtype) && size_of(out.dtype) == 2, Strided<3>(operands)},
        lines[0].elements(), queue);
  });
}

// The same index for all lines.
bool is_expanded(const View& index, int dim) {
  for (int d = 0; d < index.rank; ++d) {
    if (d != dim && index.shape[d] != 1 && index.strides[d] != 0) return false;
  }
  return true;
}

// The index in one piece: itself, or copied to `dense`.
const int64_t* dense_index(const View& index, int dim, const Scratch& dense, Queue& queue) {
  if (index.strides[dim] == 1) return index.as<int64_t>();
  View from = index;
  from.rank = 1;
  from.shape[0] = index.shape[dim];
  from.strides[0] = index.strides[dim];
  View to = from;
  to.data = dense.as<int64_t>();
  to.strides[0] = 1;
  copy(from, to, queue);
  return dense.as<int64_t>();
}

// A thread a line needs some 0.4 µs a step, sorting 150 µs for its launches and 0.6 ns an element
// (H100).
void scatter_add_part(const View& x, int dim, const View& index, const View& out, Queue& queue) {
  constexpr int64_t kFewSteps = 384, kManyLines = 512;
  constexpr int64_t kMostPairs = 16;  // of 16-bit values, whose steps go over all others
  const int64_t count = x.shape[dim], lines = x.elements() / count;
  const bool rounds = is_floating(out.dtype) && size_of(out.dtype) == 2;
  if (count <= (rounds ? kMostPairs : kFewSteps)) return add_lines(x, dim, index, out, queue);
  if (is_expanded(index, dim)) {
    const Scratch dense(queue, static_cast<size_t>(count) * sizeof(int64_t));
    const Sorted sorted(dense_index(index, dim, dense, queue), count, out.shape[dim], queue);
    return add_rows(x, dim, sorted, out, 1, queue);
  }
  if (lines >= kManyLines && !rounds) return add_lines(x, dim, index, out, queue);
  add_elements(x, dim, index, out, queue);
}

// table[row] *= beta where no key names the row; what has keys is scaled as they are added. An item
// is kScaled elements of a row.
template <class C>
struct ScaleOthersBody {
  static constexpr int64_t kScaled = 32;
  Operand table;
  int64_t width;
  Divisor items;  // of a row
  const int64_t* keys;
  int64_t count;
  C beta;

  LOCKSTEP_HD void one(uint32_t item) const {
    const uint32_t row = items.divide(item);
    int64_t low = 0, high = count;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      keys[middle] < row ? low = middle + 1 : high = middle;
    }
    if (low < count && keys[low] == row) return;
    const int64_t begin = (item - row * items.value) * kScaled;
    const int64_t end = begin + kScaled < width ? begin + kScaled : width;
    for (int64_t i = row * width + begin; i < row * width + end; ++i) {
      table.put<C>(i, beta * table.get<C>(i));
    }
  }
};

void scale_others(const View& table, const Sorted& sorted, double beta, Queue& queue) {
  with_sum_type(table.dtype, [&]<class C>(C) {
    using Body = ScaleOthersBody<C>;
    const int64_t width = table.shape[1];
    const int64_t items = (width + Body::kScaled - 1) / Body::kScaled;
    launch_elements(Body{Operand(table), width, Divisor(static_cast<uint32_t>(items)), sorted.keys,
                         sorted.count, static_cast<C>(beta)},
                    table.shape[0] * items, queue);
  });
}

}  // namespace

void scatter_add(const View& x, int dim, const View& index, const View& out, Queue& queue) {
  if (x.elements() == 0) return;
  if (x.elements() < kMostElements) return scatter_add_part(x, dim, index, out, queue);
  // By halves; those of `dim` go to the same places, one after the other.
  const int longest = longest_dimension(x);
  const int64_t size = x.shape[longest], half = size / 2;
  for (int64_t begin = 0; begin < size; begin += half) {
    const int64_t n = begin == 0 ? half : size - half;
    const auto part = [&](const View& view) { return narrowed(view, longest, begin, n); };
    scatter_add(part(x), dim, part(index), longest == dim ? out : part(out), queue);
    if (begin != 0) break;
  }
}

void embedding_backward(const View& dy, const View& ids, const View& dtable, double beta,
                        Queue& queue) {
  if (dtable.elements() == 0) return;
  const int64_t count = ids.elements();
  if (beta == 0) fill(dtable, 0, queue);
  if (count == 0) {
    if (beta != 0 && beta != 1) scale_add(beta, dtable, 0, dtable, queue);
    return;
  }
  const Sorted sorted(ids.as<int64_t>(), count, dtable.shape[0], queue);
  if (beta != 0 && beta != 1) scale_others(dtable, sorted, beta, queue);
  add_rows(dy, 0, sorted, dtable, beta, queue);
}

}  // namespace lockstep::cuda
