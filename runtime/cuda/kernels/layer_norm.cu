#include "lockstep/runtime/cuda/kernels/layer_norm.h"

#include "lockstep/runtime/cuda/kernels/row_launch.h"

// Both norms: RMS normalization is layer normalization about 0, without a bias.
namespace lockstep::cuda {
namespace {

constexpr int kWideThreads = 512;

template <class S>
struct NormArguments {
  using C = ComputeOf<S>;
  const S* x;
  S* y;
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

template <class S, class Group>
struct KeptNorm {
  static constexpr int kThreads = Group::kThreads;
  static constexpr bool kCooperative = true;
  using C = ComputeOf<S>;
  static constexpr int kPer = kPerSixteen<S>;
  static constexpr int kPacks = Group::kElements / kPer;
  NormArguments<S> of;
  bool packed, y_vector;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const int64_t row = Group::number(t);
    if (row >= of.rows) return;
    const int width = static_cast<int>(of.width);
    const Kept<S, Group> kept{Group::thread(t), width, packed};
    typename Kept<S, Group>::Values values, factors;
    kept.load(of.x + row * of.width, packed, C(0), values);
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
    kept.store(of.y + row * of.width, y_vector, values);
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

template <class S>
struct WideNorm {
  static constexpr int kThreads = kWideThreads;
  static constexpr bool kCooperative = true;
  using C = ComputeOf<S>;
  using Group = VisitingGroup<kThreads>;
  NormArguments<S> of;

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
    const S* in = of.x + row * of.width;
    S* out = of.y + row * of.width;
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
    const bool vector = lies_alike<S>(in, out);
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
  }
};

void norm(const View& x, const View& weight, const View& bias, double epsilon, const View& y,
          const View& mean, const View& inverse_deviation, Queue& queue) {
  if (x.elements() == 0) return;
  const int64_t rows = row_count(x), width = row_width(x);
  with_storage(x.dtype, [&]<class S>(Type<S>) {
    using C = ComputeOf<S>;
    const FittedParameter<S> fitted_weight(weight, queue), fitted_bias(bias, queue);
    const NormArguments<S> arguments{
        x.as<S>(), y.as<S>(),    fitted_weight.get(),       fitted_bias.get(),
        epsilon,   mean.as<C>(), inverse_deviation.as<C>(), rows,
        width};
    if (width > kWidestKept) {
      launch(WideNorm<S>{arguments},
             {.blocks = rows, .shared_bytes = across_block_bytes<double>(kWideThreads)}, queue);
      return;
    }
    const bool packed = rows_are_packed<S>(x);
    with_keeping_group(width, [&]<class Group>(Group) {
      launch(
          KeptNorm<S, Group>{arguments, packed, packed && is_aligned(y)},
          {.blocks = Group::blocks(rows), .shared_bytes = Group::template shared_bytes<Pair<C>>()},
          queue);
    });
  });
}

}  // namespace

void layer_norm(const View& x, const View& weight, const View& bias, double epsilon, const View& y,
                const View& mean, const View& inverse_deviation, Queue& queue) {
  norm(x, weight, bias, epsilon, y, mean, inverse_deviation, queue);
}

void rms_norm(const View& x, const View& weight, double epsilon, const View& y,
              const View& inverse_rms, Queue& queue) {
  norm(x, weight, View(), epsilon, y, View(), inverse_rms, queue);
}

}  // namespace lockstep::cuda
