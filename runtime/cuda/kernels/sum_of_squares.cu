#include "lockstep/runtime/cuda/grid.h"
#include "lockstep/runtime/cuda/kernels/elements.h"
#include "lockstep/runtime/cuda/kernels/reduce.h"
#include "lockstep/runtime/cuda/kernels/reduce_bodies.h"
#include "lockstep/runtime/cuda/kernels/reduce_parts.h"

namespace lockstep::cuda {
namespace {

// A part of x by each block.
template <class C>
struct SquaresBody {
  static constexpr int kThreads = 256;
  static constexpr bool kCooperative = true;
  static constexpr int kAhead = 4;
  static constexpr int64_t kStep = int64_t{kThreads} * kPack;
  static constexpr int64_t kPart = kStep * kAhead * 2;
  Operand x;
  int64_t count;
  bool aligned;
  double* sums;  // one a part

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const int64_t begin = t.block() * kPart;
    const int64_t end = begin + kPart < count ? begin + kPart : count;
    double totals[kPack] = {};
    for (int64_t i = begin + t.index() * kPack; i < end; i += kStep * kAhead) {
      C values[kAhead][kPack];
      for (int a = 0; a < kAhead; ++a) read(i + a * kStep, end, values[a]);
      for (int a = 0; a < kAhead; ++a) {
        for (int j = 0; j < kPack; ++j) {
          const auto value = static_cast<double>(values[a][j]);
          totals[j] += value * value;
        }
      }
    }
    const double total =
        across_block<kThreads>(t, join_all(totals, Sum()), t.shared<double>(), Sum());
    if (t.index() == 0) sums[t.block()] = total;
  }

 private:
  LOCKSTEP_HD void read(int64_t first, int64_t end, C (&out)[kPack]) const {
    if (aligned && first + kPack <= end) {
      load_pack(x.data, x.dtype, first, out);
      return;
    }
    for (int j = 0; j < kPack; ++j) out[j] = first + j < end ? x.get<C>(first + j) : C(0);
  }
};

template <class C>
void squares(const View& x, double* result, Queue& queue) {
  using Body = SquaresBody<C>;
  const int64_t count = x.elements();
  const int64_t parts = divided_up(count, Body::kPart);
  const Scratch scratch(queue, sizeof(double) * static_cast<size_t>(parts));
  double* sums = parts == 1 ? result : scratch.as<double>();
  launch(Body{Operand(x), count, is_aligned(x), sums},
         {.blocks = parts, .shared_bytes = across_block_bytes<double>(Body::kThreads)}, queue);
  if (parts == 1) return;
  View each;
  each.data = sums;
  each.dtype = DType::f64;
  each.rank = 1;
  each.shape[0] = parts;
  each.strides[0] = 1;
  View total = each;
  total.data = result;
  total.shape[0] = 1;
  reduce(ReduceOp::sum, each, total, 0, queue);
}

}  // namespace

void sum_of_squares_into(const View& x, double* result, Queue& queue) {
  if (x.elements() == 0) return queue.set_zero(result, sizeof(double));
  x.dtype == DType::f64 ? squares<double>(x, result, queue) : squares<float>(x, result, queue);
}

double sum_of_squares(const View& x, Queue& queue) {
  double result = 0;
  sums_of_squares(&x, 1, &result, queue);
  return result;
}

void sums_of_squares(const View* x, int count, double* sums, Queue& queue) {
  if (count == 0) return;
  const size_t bytes = sizeof(double) * static_cast<size_t>(count);
  const Scratch scratch(queue, bytes);
  for (int i = 0; i < count; ++i) sum_of_squares_into(x[i], scratch.as<double>() + i, queue);
  queue.read(sums, scratch.as<double>(), bytes);
}

}  // namespace lockstep::cuda
