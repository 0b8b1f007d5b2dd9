#include "lockstep/runtime/cuda/kernels/layer_norm.h"

#include "lockstep/runtime/cuda/kernels/mixed_rows.h"

// Both norms: RMS normalization is layer normalization about 0, without a bias. Beside rows of f32,
// what is added to them and the result may be of 16 bits, L.
namespace lockstep::cuda {
namespace {

constexpr int kWideThreads = 512;

template <class S, class L>
struct NormArguments {
  using C = ComputeOf<S>;
  const S* x;
  MixedRows<S, L> delta;  // none: x is normalized, and there is no sum
  S* sum;
  bool sum_vector;
  MixedRows<S, L> y;
  Parameter<S> weight, bias;
  double epsilon;
  C *mean, *inverse_deviation;  // no mean: of RMS normalization
  int64_t rows, width;

  LOCKSTEP_DEVICE C inverse_of(double squares) const {
    return static_cast<C>(1 / sqrt(squares / static_cast<double>(width) + epsilon));
  }
  LOCKSTEP_DEVICE void keep(int64_t row, C row_mean, C inverse) const {
    if (mean != nullptr) mean[row] = row_mean;
    inverse_deviation[row] = inverse;
  }
};

template <class S, class L, class Group>
struct KeptNorm {
  static constexpr int kThreads = Group::kThreads;
  static constexpr bool kCooperative = true;
  using C = ComputeOf<S>;
  static constexpr int kPer = kPerSixteen<S>;
  static constexpr int kPacks = Group::kElements / kPer;
  NormArguments<S, L> of;
  bool packed;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const int64_t row = Group::number(t);
    if (row >= of.rows) return;
    const int width = static_cast<int>(of.width);
    const Kept<S, Group> kept{Group::thread(t), width, packed};
    typename Kept<S, Group>::Values values, factors;
    kept.load(of.x + row * of.width, packed, C(0), values);
    if (of.delta.data != nullptr) {
      of.delta.load(kept, row, factors);
      unrolled<kPacks, kPer>(
          [&](int p, int i) { values[p][i] = value_of(stored<S>(values[p][i] + factors[p][i])); });
      kept.store(of.sum + row * of.width, of.sum_vector, values);
    }
    C mean = 0;
    double squares = 0;
    if (of.mean == nullptr) {
      squares = static_cast<double>(Group::across(t, deviations(kept, values, 0), Sum{}).second);
    } else {
      C sum = 0;
      for_each_value(values, [&](C value) { sum += value; });
      const C near = Group::across(t, sum, Sum{}) / static_cast<C>(width);
      // The mean to the last bit: what is left of it shows in the deviations from it.
      const Pair<C> sums = Group::across(t, deviations(kept, values, near), Sum{});
      const C rest = sums.first / static_cast<C>(width);
      mean = rest == rest ? near + rest : near;  // of an infinite value: infinite
      squares = static_cast<double>(sums.second) -
                static_cast<double>(sums.first) * static_cast<double>(rest);
      squares = squares < 0 ? 0 : squares;
    }
    const C inverse = of.inverse_of(squares);
    if (kept.thread == 0) of.keep(row, mean, inverse);
    of.weight.load(kept, C(1), factors);
    unrolled<kPacks, kPer>(
        [&](int p, int i) { values[p][i] = (values[p][i] - mean) * inverse * factors[p][i]; });
    if (of.bias.data != nullptr) {
      of.bias.load(kept, C(0), factors);
      unrolled<kPacks, kPer>([&](int p, int i) { values[p][i] += factors[p][i]; });
    }
    of.y.store(kept, row, values);
  }

 private:
  // The sums of value - from and of its square.
  LOCKSTEP_DEVICE static Pair<C> deviations(const Kept<S, Group>& kept,
                                            const typename Kept<S, Group>::Values& values, C from) {
    Pair<C> sums;
    unrolled<kPacks, kPer>([&](int p, int i) {
      const C deviation = kept.column(p, i) < kept.width ? values[p][i] - from : C(0);
      sums.first += deviation;
      sums.second += deviation * deviation;
    });
    return sums;
  }
};

template <class S, class L>
struct WideNorm {
  static constexpr int kThreads = kWideThreads;
  static constexpr bool kCooperative = true;
  using C = ComputeOf<S>;
  using Group = VisitingGroup<kThreads>;
  NormArguments<S, L> of;

  // Writes x + delta where that is normalized; the row that is.
  LOCKSTEP_DEVICE const S* input(const Thread& t, int64_t row) const {
    const S* x = of.x + row * of.width;
    if (of.delta.data == nullptr) return x;
    S* sum = of.sum + row * of.width;
    const bool vector = lies_alike(x, sum);
    of.delta.at(row * of.width, [&](const auto* delta) {
      const bool delta_vector = lies_alike(x, delta);
      visit<Group, 2>(x, of.width, t.index(), [&]<class Chunk>(int64_t at, Chunk chunk) {
        C values[Chunk::kPacks][Chunk::kPer], addends[Chunk::kPacks][Chunk::kPer];
        chunk.load(x, at, true, values);
        chunk.load(delta, at, delta_vector, addends);
        unrolled<Chunk::kPacks, Chunk::kPer>([&](int p, int i) { values[p][i] += addends[p][i]; });
        chunk.store(sum, at, vector, values);
      });
    });
    t.sync();
    return sum;
  }

  // The sum of term(value) over the row.
  template <class Term>
  LOCKSTEP_DEVICE double sum(const Thread& t, const S* in, const Term& term) const {
    double total = 0;
    visit<Group, 4>(in, of.width, t.index(), [&]<class Chunk>(int64_t at, Chunk chunk) {
      C values[Chunk::kPacks][Chunk::kPer];
      chunk.load(in, at, true, values);
      C part = 0;
      for_each_value(values, [&](C value) { part += term(value); });
      total += static_cast<double>(part);
    });
    return Group::across(t, total, Sum{});
  }

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const int64_t row = t.block();
    const S* in = input(t, row);
    C mean = 0;
    if (of.mean != nullptr) {
      mean =
          static_cast<C>(sum(t, in, [](C value) { return value; }) / static_cast<double>(of.width));
    }
    const C inverse = of.inverse_of(sum(t, in, [mean](C value) {
      const C deviation = value - mean;
      return deviation * deviation;
    }));
    if (t.index() == 0) of.keep(row, mean, inverse);
    of.y.at(row * of.width, [&](auto* out) {
      const bool vector = lies_alike(in, out);
      visit<Group, 2>(in, of.width, t.index(), [&]<class Chunk>(int64_t at, Chunk chunk) {
        C values[Chunk::kPacks][Chunk::kPer], factors[Chunk::kPacks][Chunk::kPer];
        chunk.load(in, at, true, values);
        of.weight.template load<Chunk>(in, at, C(1), factors);
        unrolled<Chunk::kPacks, Chunk::kPer>(
            [&](int p, int i) { values[p][i] = (values[p][i] - mean) * inverse * factors[p][i]; });
        of.bias.template load<Chunk>(in, at, C(0), factors);
        unrolled<Chunk::kPacks, Chunk::kPer>([&](int p, int i) { values[p][i] += factors[p][i]; });
        chunk.store(out, at, vector, values);
      });
    });
  }
};

struct NormViews {
  const View& x;
  const ResidualSum& residual;
  const View &weight, &bias, &y, &mean, &inverse_deviation;
};

template <class S, class L>
void norm_of(const NormViews& views, double epsilon, Queue& queue) {
  using C = ComputeOf<S>;
  const View& x = views.x;
  const View& delta = views.residual.delta;
  const int64_t rows = row_count(x), width = row_width(x);
  const FittedParameter<S> weight(views.weight, queue), bias(views.bias, queue);
  const bool fits =
      delta.data == nullptr || delta.dtype == dtype_of<S> || delta.dtype == dtype_of<L>;
  const Fitted fitted_delta(delta, fits, dtype_of<S>, queue);
  const bool packed = rows_are_packed<S>(x);
  const NormArguments<S, L> arguments{x.as<S>(),
                                      mixed_rows<S, L>(fitted_delta.view(), packed),
                                      views.residual.sum.as<S>(),
                                      packed && is_aligned(views.residual.sum),
                                      mixed_rows<S, L>(views.y, packed),
                                      weight.get(),
                                      bias.get(),
                                      epsilon,
                                      views.mean.as<C>(),
                                      views.inverse_deviation.as<C>(),
                                      rows,
                                      width};
  if (width > kWidestKept) {
    launch(WideNorm<S, L>{arguments},
           {.blocks = rows, .shared_bytes = across_block_bytes<double>(kWideThreads)}, queue);
    return;
  }
  with_keeping_group(width, [&]<class Group>(Group) {
    launch(KeptNorm<S, L, Group>{arguments, packed},
           {.blocks = Group::blocks(rows), .shared_bytes = Group::template shared_bytes<Pair<C>>()},
           queue);
  });
}

void norm(const NormViews& views, double epsilon, Queue& queue) {
  if (views.x.elements() == 0) return;
  const View& delta = views.residual.delta;
  const bool low = views.y.dtype != views.x.dtype || delta.data == nullptr;
  with_storage(views.x.dtype, [&]<class S>(Type<S>) {
    with_low_storage<S>(low ? views.y.dtype : delta.dtype,
                        [&]<class L>(Type<L>) { norm_of<S, L>(views, epsilon, queue); });
  });
}

}  // namespace

void layer_norm(const View& x, const ResidualSum& residual, const View& weight, const View& bias,
                double epsilon, const View& y, const View& mean, const View& inverse_deviation,
                Queue& queue) {
  norm({x, residual, weight, bias, y, mean, inverse_deviation}, epsilon, queue);
}

void rms_norm(const View& x, const View& weight, double epsilon, const View& y,
              const View& inverse_rms, Queue& queue) {
  norm({x, {}, weight, View(), y, View(), inverse_rms}, epsilon, queue);
}

}  // namespace lockstep::cuda
