#include "lockstep/runtime/cuda/kernels/softmax.h"

#include "lockstep/runtime/cuda/kernels/row_launch.h"

namespace lockstep::cuda {
namespace {

constexpr int kWideThreads = 512;

// What y is where x - maximum is `shifted`. Logarithms are two terms, because their sum loses
// digits where the values are large and close together.
template <class S, class C>
LOCKSTEP_HD C result_of(bool log, C shifted, C factor, C log_sum) {
  return log ? shifted - log_sum : exponential<S>(shifted) * factor;
}

template <class S, class Group>
struct KeptSoftmax {
  static constexpr int kThreads = Group::kThreads;
  static constexpr bool kCooperative = true;
  using C = ComputeOf<S>;
  const S* x;
  S* y;
  int64_t rows;
  int width;
  bool packed, y_vector, log_result;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const int64_t row = Group::number(t);
    if (row >= rows) return;
    const Kept<S, Group> kept{Group::thread(t), width, packed};
    typename Kept<S, Group>::Values values;
    kept.load(x + row * width, packed, -std::numeric_limits<C>::infinity(), values);
    C largest = std::numeric_limits<C>::lowest();
    for_each_value(values, [&](C value) { largest = fmax(largest, value); });
    largest = Group::across(t, largest, Larger{});
    C sum = 0;
    for_each_value(values, [&](C& value) {
      value -= largest;
      const C exponent = exponential<S>(value);
      sum += exponent;
      if (!log_result) value = exponent;
    });
    sum = Group::across(t, sum, Sum{});
    const C log_sum = log_result ? log(sum) : C(0);
    const C factor = C(1) / sum;
    for_each_value(values,
                   [&](C& value) { value = log_result ? value - log_sum : value * factor; });
    kept.store(y + row * width, y_vector, values);
  }
};

template <class S>
struct WideSoftmax {
  static constexpr int kThreads = kWideThreads;
  static constexpr bool kCooperative = true;
  using C = ComputeOf<S>;
  using Group = VisitingGroup<kThreads>;
  const S* x;
  S* y;
  int64_t width;
  bool log_result;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const S* in = x + int64_t{t.block()} * width;
    S* out = y + int64_t{t.block()} * width;
    OnlineSum<S> online;
    visit<Group, 4>(in, width, t.index(), [&]<class Chunk>(int64_t at, Chunk chunk) {
      C values[Chunk::kPacks][Chunk::kPer];
      chunk.load(in, at, true, values);
      online.add(values);
    });
    online = Group::across(t, online, typename OnlineSum<S>::Join{});
    const C log_sum = log(online.sum);
    const C factor = C(1) / online.sum;
    const bool vector = lies_alike<S>(in, out);
    visit<Group, 4>(in, width, t.index(), [&]<class Chunk>(int64_t at, Chunk chunk) {
      C values[Chunk::kPacks][Chunk::kPer];
      chunk.load(in, at, true, values);
      for_each_value(values, [&](C& value) {
        value = result_of<S>(log_result, value - online.largest, factor, log_sum);
      });
      chunk.store(out, at, vector, values);
    });
  }
};

// The row's sum of this, for dx.
template <class C>
LOCKSTEP_HD C term_of(bool log, C y, C dy) {
  return log ? dy : y * dy;
}
template <class S, class C>
LOCKSTEP_HD C gradient_of(bool log, C y, C dy, C sum) {
  return log ? dy - exponential<S>(y) * sum : y * (dy - sum);
}

template <class S, class Group>
struct KeptSoftmaxBackward {
  static constexpr int kThreads = Group::kThreads;
  static constexpr bool kCooperative = true;
  using C = ComputeOf<S>;
  static constexpr int kPer = kPerSixteen<S>;
  static constexpr int kPacks = Group::kElements / kPer;
  const S *y, *dy;
  S* dx;
  int64_t rows;
  int width;
  bool packed, dy_vector, dx_vector, log_result;
  C beta;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const int64_t row = Group::number(t);
    if (row >= rows) return;
    const Kept<S, Group> kept{Group::thread(t), width, packed};
    typename Kept<S, Group>::Values ys, dys;
    kept.load(y + row * width, packed, C(0), ys);
    kept.load(dy + row * width, dy_vector, C(0), dys);
    C sum = 0;
    unrolled<kPacks, kPer>([&](int p, int i) { sum += term_of(log_result, ys[p][i], dys[p][i]); });
    sum = Group::across(t, sum, Sum{});
    unrolled<kPacks, kPer>(
        [&](int p, int i) { dys[p][i] = gradient_of<S>(log_result, ys[p][i], dys[p][i], sum); });
    kept.add(beta, dx + row * width, dx_vector, dys);
    kept.store(dx + row * width, dx_vector, dys);
  }
};

template <class S>
struct WideSoftmaxBackward {
  static constexpr int kThreads = kWideThreads;
  static constexpr bool kCooperative = true;
  using C = ComputeOf<S>;
  using Group = VisitingGroup<kThreads>;
  const S *y, *dy;
  S* dx;
  int64_t width;
  bool log_result;
  C beta;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const S* y_row = y + int64_t{t.block()} * width;
    const S* dy_row = dy + int64_t{t.block()} * width;
    S* out = dx + int64_t{t.block()} * width;
    const bool dy_vector = lies_alike(y_row, dy_row);
    C sum = 0;
    visit<Group, 2>(y_row, width, t.index(), [&]<class Chunk>(int64_t at, Chunk chunk) {
      C ys[Chunk::kPacks][Chunk::kPer], dys[Chunk::kPacks][Chunk::kPer];
      chunk.load(y_row, at, true, ys);
      chunk.load(dy_row, at, dy_vector, dys);
      C part = 0;
      unrolled<Chunk::kPacks, Chunk::kPer>(
          [&](int p, int i) { part += term_of(log_result, ys[p][i], dys[p][i]); });
      sum += part;
    });
    sum = Group::across(t, sum, Sum{});
    const bool vector = lies_alike<S>(y_row, out);
    visit<Group, 2>(y_row, width, t.index(), [&]<class Chunk>(int64_t at, Chunk chunk) {
      C ys[Chunk::kPacks][Chunk::kPer], dys[Chunk::kPacks][Chunk::kPer];
      chunk.load(y_row, at, true, ys);
      chunk.load(dy_row, at, dy_vector, dys);
      unrolled<Chunk::kPacks, Chunk::kPer>(
          [&](int p, int i) { dys[p][i] = gradient_of<S>(log_result, ys[p][i], dys[p][i], sum); });
      chunk.add(beta, out, at, vector, dys);
      chunk.store(out, at, vector, dys);
    });
  }
};

template <class S>
void forward(const View& x, const View& y, bool log, Queue& queue) {
  using C = ComputeOf<S>;
  const int64_t rows = row_count(x), width = row_width(x);
  if (width > kWidestKept) {
    launch(WideSoftmax<S>{x.as<S>(), y.as<S>(), width, log},
           {.blocks = rows, .shared_bytes = across_block_bytes<OnlineSum<S>>(kWideThreads)}, queue);
    return;
  }
  const bool packed = rows_are_packed<S>(x);
  with_keeping_group(width, [&]<class Group>(Group) {
    launch(KeptSoftmax<S, Group>{x.as<S>(), y.as<S>(), rows, static_cast<int>(width), packed,
                                 packed && is_aligned(y), log},
           {.blocks = Group::blocks(rows), .shared_bytes = Group::template shared_bytes<C>()},
           queue);
  });
}

template <class S>
void backward(const View& y, const View& dy_given, const View& dx, bool log, double beta,
              Queue& queue) {
  using C = ComputeOf<S>;
  const int64_t rows = row_count(y), width = row_width(y);
  const Fitted fitted(dy_given, dy_given.dtype == y.dtype, y.dtype, queue);
  const View& dy = fitted.view();
  const C factor = static_cast<C>(beta);
  if (width > kWidestKept) {
    launch(WideSoftmaxBackward<S>{y.as<S>(), dy.as<S>(), dx.as<S>(), width, log, factor},
           {.blocks = rows, .shared_bytes = across_block_bytes<C>(kWideThreads)}, queue);
    return;
  }
  const bool packed = rows_are_packed<S>(y);
  with_keeping_group(width, [&]<class Group>(Group) {
    launch(KeptSoftmaxBackward<S, Group>{y.as<S>(), dy.as<S>(), dx.as<S>(), rows,
                                         static_cast<int>(width), packed, packed && is_aligned(dy),
                                         packed && is_aligned(dx), log, factor},
           {.blocks = Group::blocks(rows), .shared_bytes = Group::template shared_bytes<C>()},
           queue);
  });
}

}  // namespace

void softmax(const View& x, const View& y, bool log, Queue& queue) {
  if (x.elements() == 0) return;
  with_storage(x.dtype, [&]<class S>(Type<S>) { forward<S>(x, y, log, queue); });
}

void softmax_backward(const View& y, const View& dy, const View& dx, bool log, double beta,
                      Queue& queue) {
  if (y.elements() == 0) return;
  with_storage(y.dtype, [&]<class S>(Type<S>) { backward<S>(y, dy, dx, log, beta, queue); });
}

}  // namespace lockstep::cuda
