#include "lockstep/runtime/cuda/kernels/layer_norm.h"
#include "lockstep/runtime/cuda/kernels/mixed_rows.h"
#include "lockstep/runtime/cuda/kernels/summing_groups.h"

// With h = (x - mean) / deviation and g = dy * weight, dx = (g - mean(g) - h mean(g h)) /
// deviation, dweight = sum of dy * h and dbias = sum of dy over the rows. Groups of threads go over
// the rows of one part each and keep the parameters' sums of it; a second kernel adds the parts up.
// Of RMS normalization both means of the first formula's middle term are 0. Beside rows of f32, dy
// and a second, rounded dx may be of 16 bits, L.
namespace lockstep::cuda {
namespace {

constexpr int kWideThreads = 512;
constexpr int kColumnThreads = 256;

template <class S, class L>
struct BackwardArguments {
  using C = ComputeOf<S>;
  MixedRows<S, L> dy;
  const S* x;
  S* dx;      // none: not wanted
  L* ddelta;  // dx, rounded, beside rows of f32; none: not wanted
  Parameter<S> weight;
  const C *mean, *inverse_deviation;
  const S* added;  // dx gets beta times these; none: beta is 0
  C beta;
  C* sums;  // [parts, 2, width]: of dy * h and of dy; none: not wanted
  int64_t rows, width;

  LOCKSTEP_HD bool rounds_dx() const { return !std::is_same_v<S, L> && ddelta != nullptr; }
  LOCKSTEP_HD bool makes_dx() const { return dx != nullptr || rounds_dx(); }
  LOCKSTEP_DEVICE C mean_of(int64_t row) const { return mean == nullptr ? C(0) : mean[row]; }
  // The means of g and of g h, from their sums.
  LOCKSTEP_DEVICE Pair<C> means(const Pair<C>& totals) const {
    const C count = static_cast<C>(width);
    return {mean == nullptr ? C(0) : totals.first / count, totals.second / count};
  }
};

template <class S, class L, class Group>
struct KeptNormBackward {
  static constexpr int kThreads = Group::kThreads;
  static constexpr bool kCooperative = true;
  using C = ComputeOf<S>;
  static constexpr int kPer = kPerSixteen<S>;
  static constexpr int kPacks = Group::kElements / kPer;
  // Whether what dx is added to, and the next row, are read before the block's threads wait for
  // each other, where there are registers for it.
  static constexpr bool kReadsAhead = Group::kSize > kWarp&& Group::kElements <= 8 &&
                                      sizeof(C) == sizeof(float);
  static constexpr bool kReadsNext = kReadsAhead && Group::kElements <= 4 && Group::kSize >= 256;
  BackwardArguments<S, L> of;
  bool packed, dx_vector, ddelta_vector, added_vector;

  using Values = typename Kept<S, Group>::Values;
  struct Row {
    Values g, h;
    C mean, inverse;
  };

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const int width = static_cast<int>(of.width);
    const Kept<S, Group> kept{Group::thread(t), width, packed};
    Values weight, dweight = {}, dbias = {};
    of.weight.load(kept, C(1), weight);
    const int64_t parts = int64_t{t.blocks()} * Group::kRows;
    int64_t row = Group::number(t);
    Row now, next;
    if (kReadsNext && row < of.rows) read(kept, row, now);
    for (; row < of.rows; row += parts) {
      if (!kReadsNext) read(kept, row, now);
      Values &g = now.g, &h = now.h;
      Pair<C> totals;
      unrolled<kPacks, kPer>([&](int p, int i) {
        h[p][i] = (h[p][i] - now.mean) * now.inverse;
        dweight[p][i] += g[p][i] * h[p][i];
        dbias[p][i] += g[p][i];
        g[p][i] *= weight[p][i];
        totals.first += g[p][i];
        totals.second += g[p][i] * h[p][i];
      });
      const S* added_row = of.added + row * of.width;
      Values added;
      if (kReadsAhead && of.added != nullptr) kept.load(added_row, added_vector, C(0), added);
      if (kReadsNext && row + parts < of.rows) read(kept, row + parts, next);
      if (of.makes_dx()) {
        const Pair<C> means = of.means(Group::across(t, totals, Sum{}));
        unrolled<kPacks, kPer>([&](int p, int i) {
          g[p][i] = now.inverse * (g[p][i] - means.first - h[p][i] * means.second);
        });
        if (!kReadsAhead) {
          kept.add(of.beta, added_row, added_vector, g);
        } else if (of.added != nullptr) {
          kept.add(of.beta, added, g);
        }
        if (of.dx != nullptr) kept.store(of.dx + row * of.width, dx_vector, g);
        if (of.rounds_dx()) kept.store(of.ddelta + row * of.width, ddelta_vector, g);
      }
      if (kReadsNext) now = next;
    }
    if (of.sums == nullptr) return;
    C* sums = of.sums + Group::number(t) * 2 * of.width;
    kept.store(sums, packed, dweight);
    kept.store(sums + of.width, packed, dbias);
  }

 private:
  LOCKSTEP_DEVICE void read(const Kept<S, Group>& kept, int64_t row, Row& to) const {
    of.dy.load(kept, row, to.g);
    kept.load(of.x + row * of.width, packed, C(0), to.h);
    to.mean = of.mean_of(row);
    to.inverse = of.inverse_deviation[row];
  }
};

template <class S, class L>
struct WideNormBackward {
  static constexpr int kThreads = kWideThreads;
  static constexpr bool kCooperative = true;
  using C = ComputeOf<S>;
  using Group = VisitingGroup<kThreads>;
  BackwardArguments<S, L> of;

  // Calls f(at, chunk, g, h) for the row.
  template <class F>
  LOCKSTEP_DEVICE void each(const Thread& t, int64_t row, const F& f) const {
    const S* x = of.x + row * of.width;
    const C mean = of.mean_of(row);
    const C inverse = of.inverse_deviation[row];
    of.dy.at(row * of.width, [&](const auto* dy) {
      const bool dy_vector = lies_alike(x, dy);
      visit<Group, 1>(x, of.width, t.index(), [&]<class Chunk>(int64_t at, Chunk chunk) {
        C g[Chunk::kPacks][Chunk::kPer], h[Chunk::kPacks][Chunk::kPer];
        C weight[Chunk::kPacks][Chunk::kPer];
        chunk.load(dy, at, dy_vector, g);
        chunk.load(x, at, true, h);
        of.weight.template load<Chunk>(x, at, C(1), weight);
        unrolled<Chunk::kPacks, Chunk::kPer>([&](int p, int i) {
          h[p][i] = (h[p][i] - mean) * inverse;
          g[p][i] *= weight[p][i];
        });
        f(at, chunk, g, h);
      });
    });
  }

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const int64_t row = t.block();
    const C inverse = of.inverse_deviation[row];
    const S* x = of.x + row * of.width;
    const S* added = of.added + row * of.width;
    S* out = of.dx + row * of.width;
    L* rounded = of.ddelta + row * of.width;
    Pair<C> totals;
    each(t, row, [&]<class Chunk, class Values>(int64_t, Chunk, Values& g, Values& h) {
      Pair<C> part;
      unrolled<Chunk::kPacks, Chunk::kPer>([&](int p, int i) {
        part.first += g[p][i];
        part.second += g[p][i] * h[p][i];
      });
      totals = totals + part;
    });
    const Pair<C> means = of.means(Group::across(t, totals, Sum{}));
    const bool vector = lies_alike(x, out), added_vector = lies_alike(x, added);
    const bool rounded_vector = lies_alike(x, rounded);
    each(t, row, [&]<class Chunk, class Values>(int64_t at, Chunk chunk, Values& g, Values& h) {
      unrolled<Chunk::kPacks, Chunk::kPer>([&](int p, int i) {
        g[p][i] = inverse * (g[p][i] - means.first - h[p][i] * means.second);
      });
      chunk.add(of.beta, added, at, added_vector, g);
      if (of.dx != nullptr) chunk.store(out, at, vector, g);
      if (of.rounds_dx()) chunk.store(rounded, at, rounded_vector, g);
    });
  }
};

// The parameters' sums of wide rows: a thread a column, a part of the rows a block_y.
template <class S, class L>
struct ColumnSums {
  static constexpr int kThreads = kColumnThreads;
  static constexpr bool kCooperative = false;
  using C = ComputeOf<S>;
  BackwardArguments<S, L> of;
  int64_t parts;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const int64_t column = int64_t{t.block()} * kThreads + t.index();
    if (column >= of.width) return;
    C dweight = 0, dbias = 0;
    for (int64_t row = t.block_y(); row < of.rows; row += parts) {
      const int64_t at = row * of.width + column;
      C dy = 0;
      of.dy.at(at, [&](const auto* element) { dy = value_of(*element); });
      dweight += dy * ((value_of(of.x[at]) - of.mean_of(row)) * of.inverse_deviation[row]);
      dbias += dy;
    }
    C* sums = of.sums + t.block_y() * 2 * of.width + column;
    sums[0] = dweight;
    sums[of.width] = dbias;
  }
};

struct Gradient {
  void* data;  // none: not wanted
  DType dtype;
  double beta;
};

// out = the sum over the parts + beta * out, in double; block_y: of which gradient. kSlices threads
// share a column.
template <class C, int kSlices>
struct PartsSum {
  static constexpr int kThreads = 512;
  static constexpr int kColumns = kThreads / kSlices;
  static constexpr bool kCooperative = kSlices > 1;
  const C* sums;
  int64_t parts, width;
  Gradient gradients[2];

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const int which = t.block_y();
    const Gradient out = gradients[which == 0 ? 0 : 1];
    if (out.data == nullptr) return;
    const int lane = t.index() % kColumns, slice = t.index() / kColumns;
    const int64_t column = int64_t{t.block()} * kColumns + lane;
    double sum = 0;
    if (column < width) {
      for (int64_t i = slice; i < parts; i += kSlices) {
        sum += static_cast<double>(sums[(i * 2 + which) * width + column]);
      }
    }
    if constexpr (kSlices > 1) {
      auto* slices = t.shared<double>();
      slices[t.index()] = sum;
      t.sync();
      if (slice != 0) return;
      for (int i = 1; i < kSlices; ++i) sum += slices[i * kColumns + lane];
    }
    if (column >= width) return;
    if (out.dtype == DType::f64) {
      put<double>(out, column, sum);
    } else {
      put<float>(out, column, sum);
    }
  }

 private:
  template <class T>
  LOCKSTEP_DEVICE static void put(const Gradient& out, int64_t column, double sum) {
    if (out.beta != 0) {
      sum += out.beta * static_cast<double>(load<T>(out.data, out.dtype, column));
    }
    store<T>(out.data, out.dtype, column, static_cast<T>(sum));
  }
};

// Parts of the rows, a function of their number alone: `most`, unless they would have fewer than 4
// rows or more than 256.
int64_t parts_for(int64_t rows, int64_t most, int64_t multiple) {
  int64_t each = (rows + most - 1) / most;
  each = each < 4 ? 4 : each > 256 ? 256 : each;
  const int64_t parts = (rows + each - 1) / each;
  return (parts + multiple - 1) / multiple * multiple;
}

template <class S, class L>
class Backward {
 public:
  using C = ComputeOf<S>;
  Backward(const BackwardArguments<S, L>& arguments, const Gradient (&gradients)[2], bool packed,
           Queue& queue)
      : arguments_(arguments),
        dweight_(gradients[0]),
        dbias_(gradients[1]),
        packed_(packed),
        queue_(queue) {}

  void operator()() {
    const bool kept =
        with_summing_group<S>(arguments_.width, [&]<class Group>(Group, int64_t most) {
          const int64_t parts = parts_for(arguments_.rows, most, Group::kRows);
          const Scratch scratch(queue_, sums_bytes(parts));
          arguments_.sums = scratch.template as<C>();
          launch(KeptNormBackward<S, L, Group>{arguments_, packed_, vector(arguments_.dx),
                                               vector(arguments_.ddelta), vector(arguments_.added)},
                 {.blocks = parts / Group::kRows,
                  .shared_bytes = Group::template shared_bytes<Pair<C>>()},
                 queue_);
          add_up(parts);
        });
    if (!kept) wide();
  }

 private:
  bool vector(const void* rows) const {
    return packed_ && reinterpret_cast<uintptr_t>(rows) % sizeof(Sixteen) == 0;
  }
  bool sums() const { return dweight_.data != nullptr || dbias_.data != nullptr; }
  size_t sums_bytes(int64_t parts) const {
    return sums() ? static_cast<size_t>(2 * parts * arguments_.width) * sizeof(C) : 0;
  }

  void wide() {
    // The sums first: dx may be written over dy.
    if (sums()) {
      const int64_t parts = parts_for(arguments_.rows, 64, 1);
      const Scratch scratch(queue_, sums_bytes(parts));
      arguments_.sums = scratch.template as<C>();
      launch(
          ColumnSums<S, L>{arguments_, parts},
          {.blocks = (arguments_.width + kColumnThreads - 1) / kColumnThreads, .blocks_y = parts},
          queue_);
      add_up(parts);
    }
    if (!arguments_.makes_dx()) return;
    launch(WideNormBackward<S, L>{arguments_},
           {.blocks = arguments_.rows, .shared_bytes = across_block_bytes<Pair<C>>(kWideThreads)},
           queue_);
  }

  void add_up(int64_t parts) {
    if (!sums()) return;
    parts <= 32 ? add_up_by<1>(parts) : add_up_by<32>(parts);
  }
  template <int kSlices>
  void add_up_by(int64_t parts) {
    using Body = PartsSum<C, kSlices>;
    launch(Body{arguments_.sums, parts, arguments_.width, {dweight_, dbias_}},
           {.blocks = (arguments_.width + Body::kColumns - 1) / Body::kColumns,
            .blocks_y = 2,
            .shared_bytes = kSlices == 1 ? 0 : Body::kThreads * static_cast<int>(sizeof(double))},
           queue_);
  }

  BackwardArguments<S, L> arguments_;
  Gradient dweight_, dbias_;
  bool packed_;
  Queue& queue_;
};

}  // namespace

void layer_norm_backward(const View& dy, const View& x, const View& weight, const View& mean,
                         const View& inverse_deviation, const ResidualGradient& residual,
                         const View& dx, const View& dweight, const View& dbias,
                         const double beta[3], Queue& queue) {
  const int64_t width = row_width(x);
  if (width == 0) return;
  const View& added = residual.dsum.data != nullptr ? residual.dsum : dx;
  const double factor = residual.dsum.data != nullptr ? 1 : beta[0];
  const Gradient gradients[2] = {{dweight.data, dweight.dtype, beta[1]},
                                 {dbias.data, dbias.dtype, beta[2]}};
  const auto compute = [&]<class S, class L>(Type<S>, Type<L>) {
    using C = ComputeOf<S>;
    const bool packed = rows_are_packed<S>(x);
    const bool fits = dy.dtype == dtype_of<S> || dy.dtype == dtype_of<L>;
    const Fitted upstream(dy, fits, dtype_of<S>, queue);
    const FittedParameter<S> fitted_weight(weight, queue);
    const BackwardArguments<S, L> arguments{mixed_rows<S, L>(upstream.view(), packed),
                                            x.as<S>(),
                                            dx.as<S>(),
                                            residual.ddelta.as<L>(),
                                            fitted_weight.get(),
                                            mean.as<C>(),
                                            inverse_deviation.as<C>(),
                                            factor == 0 ? nullptr : added.as<S>(),
                                            static_cast<C>(factor),
                                            nullptr,
                                            row_count(x),
                                            width};
    Backward<S, L>(arguments, gradients, packed, queue)();
  };
  const DType low = residual.ddelta.data != nullptr ? residual.ddelta.dtype : dy.dtype;
  with_storage(x.dtype, [&]<class S>(Type<S> type) {
    with_low_storage<S>(low, [&]<class L>(Type<L> low_type) { compute(type, low_type); });
  });
}

void rms_norm_backward(const View& dy, const View& x, const View& weight, const View& inverse_rms,
                       const View& dx, const View& dweight, const double beta[2], Queue& queue) {
  const double betas[3] = {beta[0], beta[1], 0};
  layer_norm_backward(dy, x, weight, View(), inverse_rms, {}, dx, dweight, View(), betas, queue);
}

}  // namespace lockstep::cuda
