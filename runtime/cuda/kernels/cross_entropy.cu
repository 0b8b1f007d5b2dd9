#include "lockstep/runtime/cuda/kernels/cross_entropy.h"

#include "lockstep/runtime/cuda/kernels/row_launch.h"

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

void cross_entropy_backward(const View& logits, const View& targets, int64_t ignore,
                            const View& log_sum_exp, const View& dloss, const View& dlogits,
                            double beta, Queue& queue) {
  if (logits.elements() == 0) return;
  with_storage(logits.dtype, [&]<class S>(Type<S>) {
    backward<S>(logits, targets, ignore, log_sum_exp, dloss, dlogits, beta, queue);
  });
}

}  // namespace lockstep::cuda
