#include "lockstep/runtime/cuda/kernels/cross_entropy.h"

#include <algorithm>

#include "lockstep/runtime/cuda/kernels/reduce_parts.h"
#include "lockstep/runtime/cuda/kernels/row_launch.h"
#include "lockstep/runtime/cuda/kernels/rows.h"

// One pass over the logits in each direction, from rows of any alignment: an odd number of classes
// is common. Backward, who writes an element is who has read it, so that both may be one memory.
namespace lockstep::cuda {
namespace {

// Packs that a thread has on their way at once.
template <class S>
constexpr int kBatch = sizeof(S) == sizeof(double) ? 1 : 4;

template <class S, class Group>
struct CrossEntropyBody {
  static constexpr int kThreads = Group::kThreads;
  static constexpr bool kCooperative = true;
  using C = ComputeOf<S>;
  const S* logits;
  const int64_t* targets;
  int64_t ignore;
  C *loss, *log_sum_exp;
  int64_t rows, classes, stride;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const int64_t row = Group::number(t);
    if (row >= rows) return;
    const S* x = logits + row * stride;
    OnlineSum<S> online;
    visit<Group, kBatch<S>>(x, classes, Group::thread(t),
                            [&]<class Chunk>(int64_t at, Chunk chunk) {
                              C values[Chunk::kPacks][Chunk::kPer];
                              chunk.load(x, at, true, values);
                              online.add(values);
                            });
    online = Group::across(t, online, typename OnlineSum<S>::Join{});
    if (Group::thread(t) != 0) return;
    C result = std::numeric_limits<C>::quiet_NaN();  // of -inf alone
    if (!(online.sum == 0)) {
      result = static_cast<C>(static_cast<double>(online.largest) +
                              log(static_cast<double>(online.sum)));
    }
    log_sum_exp[row] = result;
    const int64_t target = targets[row];
    loss[row] = target == ignore ? C(0) : result - value_of(x[target]);
  }
};

template <class S, class Group>
struct CrossEntropyBackwardBody {
  static constexpr int kThreads = Group::kThreads;
  static constexpr bool kCooperative = false;
  using C = ComputeOf<S>;
  const S* logits;
  const int64_t* targets;
  int64_t ignore;
  const C *log_sum_exp, *dloss;
  int64_t dloss_stride;
  S* dlogits;
  C beta;
  int64_t rows, classes, stride, dlogits_stride;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const int64_t row = Group::number(t);
    if (row >= rows) return;
    const S* x = logits + row * stride;
    S* dx = dlogits + row * dlogits_stride;
    const bool vector = lies_alike<S>(x, dx);
    const int64_t target = targets[row];
    const bool ignored = target == ignore;
    const C total = log_sum_exp[row];
    const C scale = dloss[row * dloss_stride];
    visit<Group, kBatch<S>>(
        x, classes, Group::thread(t), [&]<class Chunk>(int64_t at, Chunk chunk) {
          C values[Chunk::kPacks][Chunk::kPer] = {};
          if (!ignored) {
            chunk.load(x, at, true, values);
            for_each_value(values,
                           [&](C& value) { value = exponential<S>(value - total) * scale; });
            for (int p = 0; p < Chunk::kPacks; ++p) {
              const int64_t place = target - chunk.first(at, p);
              if (place < 0 || place >= Chunk::kPer) continue;
              for (int i = 0; i < Chunk::kPer; ++i) values[p][i] -= i == place ? scale : C(0);
            }
          }
          chunk.add(beta, dx, at, vector, values);
          chunk.store(dx, at, vector, values);
        });
  }
};

// Of losses: those whose target is not ignored.
struct LossTotal {
  double sum = 0;
  int64_t count = 0;

  struct Join {
    LOCKSTEP_HD LossTotal operator()(const LossTotal& a, const LossTotal& b) const {
      return {a.sum + b.sum, a.count + b.count};
    }
  };
};

// Rows that one block takes: those of a training step's classifier, or of one sequence or a few.
constexpr int64_t kLossPart = 8192;

// What a block finds of `rows` rows, by its threads in turns.
template <int kThreads, class Read>
LOCKSTEP_DEVICE LossTotal total_of_rows(const Thread& t, int64_t rows, const Read& read) {
  constexpr int kAhead = 8;  // loads in flight
  LossTotal total;
  for (int64_t i = t.index(); i < rows; i += int64_t{kThreads} * kAhead) {
    LossTotal some[kAhead];
    for (int a = 0; a < kAhead; ++a) {
      const int64_t row = i + int64_t{a} * kThreads;
      if (row < rows) some[a] = read(row);
    }
    for (int a = 0; a < kAhead; ++a) total = LossTotal::Join()(total, some[a]);
  }
  return across_block<kThreads>(t, total, t.template shared<LossTotal>(), LossTotal::Join());
}

template <class C>
LOCKSTEP_HD void write_mean(const LossTotal& total, C* result) {
  const auto count = static_cast<double>(total.count);
  result[0] = static_cast<C>(total.sum / count);
  result[1] = static_cast<C>(1 / count);
}

// A part of the rows by each block. Totals go to `totals`; where that is null there is one block,
// and it finds the mean.
template <class C>
struct LossBody {
  static constexpr int kThreads = 256;
  static constexpr bool kCooperative = true;
  const C* loss;
  const int64_t* targets;
  int64_t ignore, rows;
  LossTotal* totals;
  C* result;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const int64_t first = t.block() * kLossPart;
    const int64_t count = rows - first < kLossPart ? rows - first : kLossPart;
    const LossTotal total = total_of_rows<kThreads>(t, count, [&](int64_t row) {
      const int64_t target = targets[first + row];
      const C value = loss[first + row];  // read in any case: neither load waits for the other
      return target == ignore ? LossTotal() : LossTotal{static_cast<double>(value), 1};
    });
    if (t.index() != 0) return;
    if (totals != nullptr) {
      totals[t.block()] = total;
    } else {
      write_mean(total, result);
    }
  }
};

// The mean of all parts.
template <class C>
struct LossPartsBody {
  static constexpr int kThreads = 256;
  static constexpr bool kCooperative = true;
  const LossTotal* totals;
  int64_t parts;
  C* result;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const LossTotal total =
        total_of_rows<kThreads>(t, parts, [&](int64_t part) { return totals[part]; });
    if (t.index() == 0) write_mean(total, result);
  }
};

template <class C>
void mean_of_losses(const View& loss, const View& targets, int64_t ignore, const View& result,
                    Queue& queue) {
  constexpr int kShared = across_block_bytes<LossTotal>(LossBody<C>::kThreads);
  const int64_t rows = loss.shape[0], parts = std::max<int64_t>(1, divided_up(rows, kLossPart));
  const Scratch totals(queue, parts == 1 ? 0 : sizeof(LossTotal) * static_cast<size_t>(parts));
  LossBody<C> body{loss.as<C>(), targets.as<int64_t>(), ignore, rows, nullptr, result.as<C>()};
  if (parts > 1) body.totals = totals.as<LossTotal>();
  launch(body, {.blocks = parts, .shared_bytes = kShared}, queue);
  if (parts == 1) return;
  launch(LossPartsBody<C>{body.totals, parts, body.result}, {.shared_bytes = kShared}, queue);
}

int64_t row_stride(const View& x) { return x.rank == 1 ? 0 : x.strides[0]; }

// Calls f with the group for rows of this width: a block once a warp would be long about it.
template <class F>
void with_visiting_group(int64_t width, const F& f) {
  if (width <= 1024) return f(VisitingGroup<kWarp>{});
  return f(VisitingGroup<256>{});
}

template <class S>
void forward(const View& logits, const View& targets, int64_t ignore, const View& loss,
             const View& log_sum_exp, Queue& queue) {
  using C = ComputeOf<S>;
  const int64_t rows = row_count(logits), classes = row_width(logits);
  with_visiting_group(classes, [&]<class Group>(Group) {
    launch(CrossEntropyBody<S, Group>{logits.as<S>(), targets.as<int64_t>(), ignore, loss.as<C>(),
                                      log_sum_exp.as<C>(), rows, classes, row_stride(logits)},
           {.blocks = Group::blocks(rows),
            .shared_bytes = Group::template shared_bytes<OnlineSum<S>>()},
           queue);
  });
}

template <class S>
void backward(const View& logits, const View& targets, int64_t ignore, const View& log_sum_exp,
              const View& dloss, const View& dlogits, double beta, Queue& queue) {
  using C = ComputeOf<S>;
  const int64_t rows = row_count(logits), classes = row_width(logits);
  with_visiting_group(classes, [&]<class Group>(Group) {
    launch(CrossEntropyBackwardBody<S, Group>{logits.as<S>(), targets.as<int64_t>(), ignore,
                                              log_sum_exp.as<C>(), dloss.as<C>(), dloss.strides[0],
                                              dlogits.as<S>(), static_cast<C>(beta), rows, classes,
                                              row_stride(logits), row_stride(dlogits)},
           {.blocks = Group::blocks(rows)}, queue);
  });
}

}  // namespace

void cross_entropy(const View& logits, const View& targets, int64_t ignore, const View& loss,
                   const View& log_sum_exp, Queue& queue) {
  if (logits.elements() == 0) return;
  with_storage(logits.dtype, [&]<class S>(Type<S>) {
    forward<S>(logits, targets, ignore, loss, log_sum_exp, queue);
  });
}

void mean_loss(const View& loss, const View& targets, int64_t ignore, const View& result,
               Queue& queue) {
  if (loss.dtype == DType::f64) return mean_of_losses<double>(loss, targets, ignore, result, queue);
  mean_of_losses<float>(loss, targets, ignore, result, queue);
}

void cross_entropy_backward(const View& logits, const View& targets, int64_t ignore,
                            const View& log_sum_exp, const View& dloss, const View& dlogits,
                            double beta, Queue& queue) {
  if (logits.elements() == 0) return;
  with_storage(logits.dtype, [&]<class S>(Type<S>) {
    backward<S>(logits, targets, ignore, log_sum_exp, dloss, dlogits, beta, queue);
  });
}

}  // namespace lockstep::cuda
