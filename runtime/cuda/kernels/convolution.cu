#include "lockstep/runtime/cuda/kernels/convolution.h"

#include "lockstep/runtime/cuda/kernels/convolution_problem.h"
#include "lockstep/runtime/cuda/kernels/elements.h"
#include "lockstep/runtime/cuda/kernels/tiles.h"
#include "lockstep/runtime/error.h"

namespace lockstep::cuda::own {
namespace {

// A tile of values that are gathered, from [first_line, first_inner] on; zero beyond lines and end.
template <class C, class Line, class Inner, class Value>
LOCKSTEP_DEVICE void gather_tile(const Thread& t, bool along_inner, int first_line, int lines,
                                 int first_inner, int end, const Line& line, const Inner& inner,
                                 const Value& value, C* to) {
  using T = Tile<C>;
  for (int i = t.index(); i < T::kEdge * T::kEdge; i += T::kThreads) {
    const int slow = i / T::kEdge, fast = i % T::kEdge;
    const int m = along_inner ? slow : fast, n = along_inner ? fast : slow;
    const bool inside = first_line + m < lines && first_inner + n < end;
    to[m * T::kPitch + n] = inside ? value(line(first_line + m), inner(first_inner + n)) : C(0);
  }
}

// A block has a tile of one group's product, or of one part of the sums that it consists of.
template <class C, class Problem>
struct GatheredProductBody {
  using T = Tile<C>;
  static constexpr int kThreads = T::kThreads;
  static constexpr bool kCooperative = true;

  Problem problem;
  int row_tiles, column_tiles;
  int parts, part_inner;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const int tiles = row_tiles * column_tiles;
    const int tile = t.block() % tiles;
    const int part = t.block() / tiles % parts;
    const int64_t group = t.block() / tiles / parts;
    const int first_row = tile / column_tiles * T::kEdge;
    const int first_column = tile % column_tiles * T::kEdge;
    const ProductSizes& sizes = problem.sizes;
    const int begin = part * part_inner;
    const int end = sizes.inner - begin < part_inner ? sizes.inner : begin + part_inner;
    C* const left = t.shared<C>();
    C* const right = left + T::kElements;
    const auto inner = [&](int index) { return problem.inner(index); };
    TilePart<C> result;
    result.clear();
    for (int first = begin; first < end; first += T::kEdge) {
      gather_tile<C>(
          t, sizes.left_along_inner, first_row, sizes.rows, first, end,
          [&](int index) { return problem.row(index); }, inner,
          [&](const auto& row, const auto& at) { return problem.left(group, row, at); }, left);
      gather_tile<C>(
          t, sizes.right_along_inner, first_column, sizes.columns, first, end,
          [&](int index) { return problem.column(index); }, inner,
          [&](const auto& column, const auto& at) { return problem.right(group, column, at); },
          right);
      t.sync();
      multiply_rows(t, left, right, end - first < T::kEdge ? end - first : T::kEdge, result);
      t.sync();
    }
    LOCKSTEP_UNROLL
    for (int i = 0; i < T::kRows; ++i) {
      const int row = first_row + TilePart<C>::row(t, i);
      if (row >= sizes.rows) continue;
      LOCKSTEP_UNROLL
      for (int j = 0; j < T::kColumns; ++j) {
        const int column = first_column + TilePart<C>::column(t, j);
        if (column >= sizes.columns) continue;
        problem.put(group, part, problem.row(row), problem.column(column), result.at[i][j]);
      }
    }
  }
};

// dw = the sum of the parts + beta * dw.
template <class C>
struct SumPartsBody {
  const C* sums;
  int parts;
  int64_t elements;  // of a part
  Image dw;
  Taps taps;
  Divisor columns;
  double beta;

  LOCKSTEP_DEVICE void one(uint32_t index) const {
    C total = sums[index];
    for (int part = 1; part < parts; ++part) total += sums[part * elements + index];
    const uint32_t channel = columns.divide(index);
    const Coordinates tap = taps(index - channel * columns.value);
    const int64_t at = dw.offset(channel, tap.outer, tap.at);
    if (beta != 0) total += static_cast<C>(beta) * load<C>(dw.data, dw.dtype, at);
    store<C>(dw.data, dw.dtype, at, total);
  }
};

int64_t tiles_of(int64_t size, int edge) { return (size + edge - 1) / edge; }

template <class C, class Problem>
void multiply(const Problem& problem, int64_t groups, int parts, int part_inner, Queue& queue) {
  constexpr int kEdge = Tile<C>::kEdge;
  const int64_t row_tiles = tiles_of(problem.sizes.rows, kEdge);
  const int64_t column_tiles = tiles_of(problem.sizes.columns, kEdge);
  const GatheredProductBody<C, Problem> body{problem, static_cast<int>(row_tiles),
                                             static_cast<int>(column_tiles), parts, part_inner};
  launch(body,
         {.blocks = row_tiles * column_tiles * parts * groups, .shared_bytes = 2 * Tile<C>::kBytes},
         queue);
}

int count(int64_t value) {
  LOCKSTEP_CHECK(value < (int64_t{1} << 31), "convolution: ", value,
                 " places or taps, expected fewer than 2^31");
  return static_cast<int>(value);
}

template <class C>
void forward(const View& x_view, const View& w_view, const WindowOptions& options,
             const View& y_view, Queue& queue) {
  const Image x(x_view), w(w_view), y(y_view);
  const int64_t in = w_view.shape[1], out = w_view.shape[0] / options.groups;
  const ProductSizes sizes{.rows = count(y_view.shape[0] * y.pixels()),
                           .columns = count(out),
                           .inner = count(in * w.pixels()),
                           .left_along_inner = x.channel_stride == 1 && in > 1,
                           .right_along_inner = w.channel_stride <= w.pixels()};
  const ForwardProblem<C> problem{x, w, y, Window(options), Places(y), Taps(w, in), in, out, sizes};
  multiply<C>(problem, options.groups, 1, sizes.inner, queue);
}

template <class C>
void input_gradient(const View& dy_view, const View& w_view, const WindowOptions& options,
                    const View& dx_view, double beta, Queue& queue) {
  const Image dy(dy_view), w(w_view), dx(dx_view);
  const int64_t in = w_view.shape[1], out = w_view.shape[0] / options.groups;
  const ProductSizes sizes{.rows = count(dx_view.shape[0] * dx.pixels()),
                           .columns = count(in),
                           .inner = count(out * w.pixels()),
                           .left_along_inner = dy.channel_stride == 1 && out > 1,
                           .right_along_inner = false};
  const InputGradientProblem<C> problem{dy,           w,  dx,  Window(options), Places(dx),
                                        Taps(w, out), in, out, sizes,           beta};
  multiply<C>(problem, options.groups, 1, sizes.inner, queue);
}

// How many sums a weight gradient is cut into, so that its few tiles keep a device busy.
int parts_of(const ProductSizes& sizes, int64_t groups, int edge) {
  constexpr int64_t kTiles = 1024;
  constexpr int64_t kLeastSteps = 8;  // of a part
  const int64_t tiles = tiles_of(sizes.rows, edge) * tiles_of(sizes.columns, edge) * groups;
  const int64_t useful = tiles_of(sizes.inner, count(kLeastSteps * edge));
  const int64_t wanted = kTiles / tiles < 1 ? 1 : kTiles / tiles;
  return count(useful < wanted ? useful : wanted);
}

template <class C>
void weight_gradient(const View& dy_view, const View& x_view, const WindowOptions& options,
                     const View& dw_view, double beta, Queue& queue) {
  constexpr int kEdge = Tile<C>::kEdge;
  const Image dy(dy_view), x(x_view), dw(dw_view);
  const int64_t in = dw_view.shape[1], out = dw_view.shape[0] / options.groups;
  const ProductSizes sizes{.rows = count(out),
                           .columns = count(in * dw.pixels()),
                           .inner = count(dy_view.shape[0] * dy.pixels()),
                           .left_along_inner = dy.channel_stride != 1 || out == 1,
                           .right_along_inner = x.channel_stride != 1 || in == 1};
  const int most = parts_of(sizes, options.groups, kEdge);
  const int steps = count(tiles_of(tiles_of(sizes.inner, kEdge), most));
  const int part_inner = steps * kEdge < sizes.inner ? steps * kEdge : sizes.inner;
  const int parts = count(tiles_of(sizes.inner, part_inner));
  const int64_t elements = dw_view.elements();
  const Scratch scratch(queue, static_cast<size_t>(parts * elements) * sizeof(C));
  const Taps taps(dw, in);
  const WeightGradientProblem<C> problem{dy, x,   Window(options), Places(dy),      taps,
                                         in, out, options.groups,  scratch.as<C>(), sizes};
  multiply<C>(problem, options.groups, parts, part_inner, queue);
  launch_elements(SumPartsBody<C>{scratch.as<C>(), parts, elements, dw, taps,
                                  Divisor(static_cast<uint32_t>(sizes.columns)), beta},
                  elements, queue);
}

}  // namespace

void convolution(const View& x, const View& w, const WindowOptions& options, const View& y,
                 Queue& queue) {
  y.dtype == DType::f64 ? forward<double>(x, w, options, y, queue)
                        : forward<float>(x, w, options, y, queue);
}

void convolution_input_gradient(const View& dy, const View& w, const WindowOptions& options,
                                const View& dx, double beta, Queue& queue) {
  dx.dtype == DType::f64 ? input_gradient<double>(dy, w, options, dx, beta, queue)
                         : input_gradient<float>(dy, w, options, dx, beta, queue);
}

void convolution_weight_gradient(const View& dy, const View& x, const WindowOptions& options,
                                 const View& dw, double beta, Queue& queue) {
  dw.dtype == DType::f64 ? weight_gradient<double>(dy, x, options, dw, beta, queue)
                         : weight_gradient<float>(dy, x, options, dw, beta, queue);
}

}  // namespace lockstep::cuda::own
