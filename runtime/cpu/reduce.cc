#include "lockstep/runtime/cpu/reduce.h"

#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "lockstep/runtime/cpu/convert.h"
#include "lockstep/runtime/cpu/windows.h"
#include "lockstep/runtime/parallel.h"

namespace lockstep::cpu {

namespace {

constexpr int64_t kBlock = 1024;       // values staged at a time
constexpr int64_t kGrain = 32 * 1024;  // values worth a thread
constexpr int64_t kRowBlock = 32;      // rows summed in T before they join a double
constexpr int64_t kColumnBlock = 256;
constexpr int64_t kPart = 256 * 1024;  // values of one result that one task takes

// The dimensions of x that are kept (with those of y) and those that are reduced.
struct Split {
  Windows kept;     // x's kept dimensions, y
  Windows reduced;  // x's reduced dimensions, twice
};

View without_data(const View& like) {
  View view;
  view.dtype = like.dtype;
  return view;
}

void append(View& view, const View& from, int dim) {
  view.shape[view.rank] = from.shape[dim];
  view.strides[view.rank++] = from.strides[dim];
}

Split split(const View& x, const View& y) {
  View kept_x = without_data(x);
  View kept_y = without_data(y);
  View reduced = without_data(x);
  kept_x.data = reduced.data = x.data;
  kept_y.data = y.data;
  for (int i = 0; i < x.rank; ++i) {
    if (y.shape[i] == 1) {
      append(reduced, x, i);
    } else {
      append(kept_x, x, i);
      append(kept_y, y, i);
    }
  }
  return {Windows({&kept_y, &kept_x}), Windows({&reduced})};
}

// What a reduction does in terms of the loops on T (float, double; int64_t has loops of its own
// below). `Total` carries the result of a whole element of y.
template <class T>
struct Reducer {
  using Total = std::conditional_t<std::is_same_v<T, int64_t>, int64_t, double>;

  ReduceOp op;
  const RowLoops<T>* rows = nullptr;

  bool sums() const { return op == ReduceOp::sum || op == ReduceOp::mean; }
  Total initial() const {
    if (sums()) return 0;
    if constexpr (std::is_same_v<T, int64_t>) {
      return op == ReduceOp::max ? std::numeric_limits<int64_t>::min()
                                 : std::numeric_limits<int64_t>::max();
    } else {
      const double infinity = std::numeric_limits<double>::infinity();
      return op == ReduceOp::max ? -infinity : infinity;
    }
  }
  Total of(const T* x, int64_t n) const {
    if constexpr (std::is_same_v<T, int64_t>) {
      Total total = initial();
      for (int64_t i = 0; i < n; ++i) total = join(total, x[i]);
      return total;
    } else {
      if (sums()) return rows->sum(x, n);
      return op == ReduceOp::max ? rows->maximum(x, n) : rows->minimum(x, n);
    }
  }
  Total join(Total a, Total b) const {
    if (sums()) return a + b;
    if (a != a) return a;
    if (b != b) return b;
    return op == ReduceOp::max ? std::max(a, b) : std::min(a, b);
  }
  // The value that goes into y before beta.
  Total finish(Total total, int64_t count) const {
    if (op != ReduceOp::mean) return total;
    return static_cast<Total>(static_cast<double>(total) / static_cast<double>(count));
  }
};

template <class T>
constexpr DType compute_of = std::is_same_v<T, int64_t> ? DType::i64 : dtype_of<T>;

// y = values + beta * y
template <class Total>
void store(const Loops& loops, Total* values, int64_t n, char* y, DType dtype, int64_t stride,
           double beta) {
  constexpr DType kTotal = std::is_same_v<Total, int64_t> ? DType::i64 : DType::f64;
  if (beta != 0) {
    Total before[kColumnBlock];
    convert(loops, y, dtype, stride, before, kTotal, 1, n);
    for (int64_t i = 0; i < n; ++i) {
      values[i] += static_cast<Total>(beta * static_cast<double>(before[i]));
    }
  }
  convert(loops, values, kTotal, 1, y, dtype, stride, n);
}

// All reduced elements of one element of y: `base` is the byte offset of its first.
template <class T>
typename Reducer<T>::Total reduce_part(const Loops& loops, const Reducer<T>& reducer,
                                       const Windows& reduced, int64_t base, int64_t begin,
                                       int64_t end) {
  const Windows::Window& x = reduced.windows[0];
  const int64_t stride = x.strides[reduced.rank - 1];
  typename Reducer<T>::Total total = reducer.initial();
  T scratch[kBlock];
  while (begin < end) {
    const int64_t n = std::min(kBlock, end - begin);
    for_runs(reduced, begin, n, [&](const Cursor& at, int64_t offset, int64_t run) {
      const char* data = at.pointer(0) + base;
      if (stride == 1 && x.dtype == compute_of<T> && run == n) {
        total = reducer.join(total, reducer.of(reinterpret_cast<const T*>(data), n));
        return;
      }
      convert(loops, data, x.dtype, stride, scratch + offset, compute_of<T>, 1, run);
      if (offset + run == n) total = reducer.join(total, reducer.of(scratch, n));
    });
    begin += n;
  }
  return total;
}

// Each element of y on its own: the reduced elements are gathered along x's fastest direction.
template <class T>
void reduce_rows(const Loops& loops, const Reducer<T>& reducer, const Split& s, double beta) {
  using Total = typename Reducer<T>::Total;
  const int64_t count = s.reduced.elements;
  const char* first = s.kept.windows[1].data;
  if (count <= kPart) {
    parallel_for(s.kept.elements, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, count)),
                 [&](int64_t begin, int64_t end) {
                   for (Cursor at(s.kept, begin); begin < end; ++begin, at.advance(1)) {
                     Total total =
                         reduce_part(loops, reducer, s.reduced, at.pointer(1) - first, 0, count);
                     total = reducer.finish(total, count);
                     store(loops, &total, 1, at.pointer(0), s.kept.windows[0].dtype, 1, beta);
                   }
                 });
    return;
  }
  // Few and long: parts of fixed size, so that the sum does not depend on the thread count.
  const int64_t parts = (count + kPart - 1) / kPart;
  std::vector<Total> totals(static_cast<size_t>(parts));
  for (int64_t i = 0; i < s.kept.elements; ++i) {
    const Cursor at(s.kept, i);
    parallel_for(parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        totals[p] = reduce_part(loops, reducer, s.reduced, at.pointer(1) - first, p * kPart,
                                std::min(count, (p + 1) * kPart));
      }
    });
    Total total = reducer.initial();
    for (const Total part : totals) total = reducer.join(total, part);
    total = reducer.finish(total, count);
    store(loops, &total, 1, at.pointer(0), s.kept.windows[0].dtype, 1, beta);
  }
}

// Up to kColumnBlock neighbouring elements of y at once, row after row of x.
template <class T>
class Columns {
 public:
  Columns(const Loops& loops, const Reducer<T>& reducer, const Split& split)
      : loops_(loops), reducer_(reducer), split_(split) {}

  // Elements [start, start + n) of y from rows [begin, end), to `totals`.
  void operator()(const Cursor& kept, int64_t n, int64_t begin, int64_t end, double* totals) const {
    const char* first = split_.reduced.windows[0].data;
    const int64_t base = kept.pointer(1) - first;
    const DType dtype = split_.reduced.windows[0].dtype;
    const RowLoops<T>& rows = *reducer_.rows;
    alignas(64) T sums[kColumnBlock];
    alignas(64) T staged[kColumnBlock];
    std::fill(totals, totals + n, reducer_.initial());
    Cursor at(split_.reduced, begin);
    for (int64_t block = begin; block < end; block += kRowBlock) {
      std::fill(sums, sums + n, static_cast<T>(reducer_.initial()));
      for (int64_t row = block; row < std::min(end, block + kRowBlock); ++row, at.advance(1)) {
        const T* values = reinterpret_cast<const T*>(at.pointer(0) + base);
        if (dtype != compute_of<T>) {
          convert(loops_, values, dtype, 1, staged, compute_of<T>, 1, n);
          values = staged;
        }
        if (reducer_.sums()) {
          rows.add(values, sums, n);
        } else if (reducer_.op == ReduceOp::max) {
          rows.keep_maximum(values, sums, n);
        } else {
          rows.keep_minimum(values, sums, n);
        }
      }
      for (int64_t i = 0; i < n; ++i) totals[i] = reducer_.join(totals[i], sums[i]);
    }
  }

 private:
  const Loops& loops_;
  const Reducer<T>& reducer_;
  const Split& split_;
};

template <class T>
void reduce_columns(const Loops& loops, const Reducer<T>& reducer, const Split& s, double beta) {
  const int64_t inner = s.kept.inner();
  const int64_t blocks_per_run = (inner + kColumnBlock - 1) / kColumnBlock;
  const int64_t blocks = s.kept.elements / inner * blocks_per_run;
  const int64_t count = s.reduced.elements;
  const int64_t part_rows = std::max<int64_t>(kRowBlock, kPart / std::min(inner, kColumnBlock));
  const int64_t parts = (count + part_rows - 1) / part_rows;
  const Columns<T> columns(loops, reducer, s);
  std::vector<double> totals(static_cast<size_t>(blocks * parts * kColumnBlock));
  const auto start_of = [&](int64_t block) {
    return block / blocks_per_run * inner + block % blocks_per_run * kColumnBlock;
  };
  const auto width_of = [&](int64_t block) {
    return std::min(kColumnBlock, inner - block % blocks_per_run * kColumnBlock);
  };
  const int64_t work = std::min(count, part_rows) * std::min(inner, kColumnBlock);
  parallel_for(blocks * parts, std::max<int64_t>(1, kGrain / work),
               [&](int64_t begin, int64_t end) {
                 for (int64_t task = begin; task < end; ++task) {
                   const int64_t block = task / parts;
                   const int64_t row = task % parts * part_rows;
                   columns(Cursor(s.kept, start_of(block)), width_of(block), row,
                           std::min(count, row + part_rows), &totals[task * kColumnBlock]);
                 }
               });
  const int64_t stride = s.kept.windows[0].strides[s.kept.rank - 1];
  parallel_for(blocks, kGrain / kColumnBlock, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      double* total = &totals[block * parts * kColumnBlock];
      const int64_t n = width_of(block);
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t p = 1; p < parts; ++p) {
          total[i] = reducer.join(total[i], total[i + p * kColumnBlock]);
        }
        total[i] = reducer.finish(total[i], count);
      }
      char* y = Cursor(s.kept, start_of(block)).pointer(0);
      store(loops, total, n, y, s.kept.windows[0].dtype, stride, beta);
    }
  });
}

template <class T>
void reduce_as(const Loops& loops, const Reducer<T>& reducer, const Split& s, double beta) {
  if constexpr (!std::is_same_v<T, int64_t>) {
    const bool dense = s.kept.unit_stride(1) && s.kept.inner() >= 8;
    const bool rows_dense = s.reduced.unit_stride(0) && s.reduced.inner() >= 8;
    if (dense && !rows_dense && s.reduced.elements > 0) {
      return reduce_columns(loops, reducer, s, beta);
    }
  }
  reduce_rows(loops, reducer, s, beta);
}

}  // namespace

void reduce(const Loops& loops, ReduceOp op, const View& x, const View& y, double beta) {
  if (y.elements() == 0) return;
  const Split s = split(x, y);
  if (x.dtype == DType::f64) {
    reduce_as(loops, Reducer<double>{op, &loops.f64.rows}, s, beta);
  } else if (is_floating(x.dtype)) {
    reduce_as(loops, Reducer<float>{op, &loops.f32.rows}, s, beta);
  } else {
    reduce_as(loops, Reducer<int64_t>{op}, s, beta);
  }
}

double sum_of_squares(const Loops& loops, const View& x) {
  const int64_t n = x.elements();
  const int64_t parts = (n + kPart - 1) / kPart;
  std::vector<double> sums(static_cast<size_t>(parts));
  parallel_for(parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t start = p * kPart;
      const int64_t length = std::min(kPart, n - start);
      if (x.dtype == DType::f64) {
        sums[p] = loops.f64.rows.sum_of_squares(x.as<double>() + start, length);
      } else if (x.dtype == DType::f32) {
        sums[p] = loops.f32.rows.sum_of_squares(x.as<float>() + start, length);
      } else {
        float staged[kBlock];
        for (int64_t i = 0; i < length; i += kBlock) {
          const int64_t block = std::min(kBlock, length - i);
          convert(loops, x.as<uint16_t>() + start + i, x.dtype, 1, staged, DType::f32, 1, block);
          sums[p] += loops.f32.rows.sum_of_squares(staged, block);
        }
      }
    }
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace lockstep::cpu
