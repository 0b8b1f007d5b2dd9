#include "lockstep/runtime/cuda/kernels/integer_matmul.h"

#include "lockstep/runtime/cuda/access.h"
#include "lockstep/runtime/cuda/grid.h"

namespace lockstep::cuda {
namespace {

// A thread an element of c.
struct IntegerProduct {
  static constexpr int kThreads = 256;
  static constexpr bool kCooperative = false;
  View a, b, c;
  int64_t beta;
  int64_t elements;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const int64_t step = int64_t{t.blocks()} * kThreads;
    for (int64_t i = int64_t{t.block()} * kThreads + t.index(); i < elements; i += step) one(i);
  }

 private:
  LOCKSTEP_DEVICE void one(int64_t index) const {
    int64_t a_at = 0, b_at = 0, c_at = 0;
    for (int d = c.rank - 1; d >= 0; --d) {
      const int64_t here = index % c.shape[d];
      index /= c.shape[d];
      c_at += here * c.strides[d];
      if (d != c.rank - 1) a_at += here * a.strides[d];
      if (d != c.rank - 2) b_at += here * b.strides[d];
    }
    int64_t sum = 0;
    for (int64_t i = 0; i < a.shape[a.rank - 1]; ++i) {
      sum += load<int64_t>(a.data, a.dtype, a_at + i * a.strides[a.rank - 1]) *
             load<int64_t>(b.data, b.dtype, b_at + i * b.strides[b.rank - 2]);
    }
    if (beta != 0) sum += beta * load<int64_t>(c.data, c.dtype, c_at);
    store<int64_t>(c.data, c.dtype, c_at, sum);
  }
};

}  // namespace

void integer_matmul(const View& a, const View& b, const View& c, double beta, Queue& queue) {
  const int64_t elements = c.elements();
  const int64_t blocks = (elements + IntegerProduct::kThreads - 1) / IntegerProduct::kThreads;
  const int64_t most = int64_t{queue.multiprocessors()} * 32;
  launch(IntegerProduct{a, b, c, static_cast<int64_t>(beta), elements},
         {.blocks = blocks < most ? blocks : most}, queue);
}

}  // namespace lockstep::cuda
