#include <algorithm>
#include <type_traits>

#include "lockstep/runtime/cuda/grid.h"
#include "lockstep/runtime/cuda/kernels/elements.h"
#include "lockstep/runtime/cuda/kernels/reduce.h"
#include "lockstep/runtime/cuda/kernels/reduce_bodies.h"
#include "lockstep/runtime/cuda/kernels/reduce_parts.h"

namespace lockstep::cuda {
namespace {

// Arrays of one launch: kernel arguments, so that nothing is copied to the device first.
constexpr int kArrays = 64;
struct ArrayBatch {
  Operand arrays[kArrays];
  int64_t elements[kArrays];
  int64_t first_part[kArrays + 1];  // of each array, among those of all; the end
  uint64_t aligned = 0;             // bit i: array i begins on a 16-byte boundary
  int place[kArrays];               // of its total
  int count = 0;
};

// A part of an array by each block.
template <class C>
struct SquaresBody {
  static constexpr int kThreads = 256;
  static constexpr bool kCooperative = true;
  static constexpr int kAhead = 4;
  static constexpr int64_t kStep = int64_t{kThreads} * kPack;
  static constexpr int64_t kPart = kStep * kAhead * 2;
  ArrayBatch batch;
  double* sums;  // one a part

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    int which = 0;
    for (int step = kArrays / 2; step > 0; step /= 2) {
      const int next = which + step;
      if (next < batch.count && batch.first_part[next] <= t.block()) which = next;
    }
    const Operand& x = batch.arrays[which];
    const bool aligned = (batch.aligned >> which & 1) != 0;
    const int64_t count = batch.elements[which];
    const int64_t begin = (t.block() - batch.first_part[which]) * kPart;
    const int64_t end = begin + kPart < count ? begin + kPart : count;
    double totals[kPack] = {};
    for (int64_t i = begin + t.index() * kPack; i < end; i += kStep * kAhead) {
      C values[kAhead][kPack];
      for (int a = 0; a < kAhead; ++a) read(x, aligned, i + a * kStep, end, values[a]);
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
  LOCKSTEP_HD static void read(const Operand& x, bool aligned, int64_t first, int64_t end,
                               C (&out)[kPack]) {
    if (aligned && first + kPack <= end) {
      load_pack(x.data, x.dtype, first, out);
      return;
    }
    for (int j = 0; j < kPack; ++j) out[j] = first + j < end ? x.get<C>(first + j) : C(0);
  }
};

// The total of an array's parts by each block.
struct TotalsBody {
  static constexpr int kThreads = 256;
  static constexpr bool kCooperative = true;
  int64_t first_part[kArrays + 1];
  int place[kArrays];
  const double* sums;
  double* totals;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    double total = 0;
    for (int64_t i = first_part[t.block()] + t.index(); i < first_part[t.block() + 1];
         i += kThreads) {
      total += sums[i];
    }
    total = across_block<kThreads>(t, total, t.shared<double>(), Sum());
    if (t.index() == 0) totals[place[t.block()]] = total;
  }
};

// Moves arrays that are summed as C to `batch` until it is full; `next` is the one to go on with.
template <class C>
void collect(const View* x, int count, int* next, ArrayBatch* batch) {
  batch->count = 0;
  batch->aligned = 0;
  batch->first_part[0] = 0;
  for (; *next < count && batch->count < kArrays; ++*next) {
    const View& array = x[*next];
    if ((array.dtype == DType::f64) != std::is_same_v<C, double>) continue;
    const int i = batch->count++;
    batch->arrays[i] = Operand(array);
    batch->elements[i] = array.elements();
    batch->aligned |= uint64_t{is_aligned(array)} << i;
    batch->place[i] = *next;
    batch->first_part[i + 1] =
        batch->first_part[i] + divided_up(batch->elements[i], SquaresBody<C>::kPart);
  }
}

template <class C>
void squares(const View* x, int count, double* totals, Queue& queue) {
  constexpr int kShared = across_block_bytes<double>(256);
  for (int next = 0; next < count;) {
    SquaresBody<C> body;
    collect<C>(x, count, &next, &body.batch);
    const ArrayBatch& batch = body.batch;
    if (batch.count == 0) return;
    const int64_t parts = batch.first_part[batch.count];
    const Scratch scratch(queue, sizeof(double) * static_cast<size_t>(parts));
    body.sums = scratch.as<double>();
    launch(body, {.blocks = parts, .shared_bytes = kShared}, queue);
    TotalsBody sum{.sums = body.sums, .totals = totals};
    std::copy(batch.first_part, batch.first_part + batch.count + 1, sum.first_part);
    std::copy(batch.place, batch.place + batch.count, sum.place);
    launch(sum, {.blocks = batch.count, .shared_bytes = kShared}, queue);
  }
}

}  // namespace

double sum_of_squares(const View& x, Queue& queue) {
  double result = 0;
  sums_of_squares(&x, 1, &result, queue);
  return result;
}

void sums_of_squares(const View* x, int count, double* sums, Queue& queue) {
  if (count == 0) return;
  const size_t bytes = sizeof(double) * static_cast<size_t>(count);
  const Scratch totals(queue, bytes);
  squares<float>(x, count, totals.as<double>(), queue);
  squares<double>(x, count, totals.as<double>(), queue);
  queue.read(sums, totals.as<double>(), bytes);
}

}  // namespace lockstep::cuda
