#include "lockstep/runtime/cuda/kernels/random.h"

#include "lockstep/runtime/cuda/kernels/dimensions.h"
#include "lockstep/runtime/cuda/kernels/elements.h"
#include "lockstep/runtime/cuda/kernels/elementwise.h"
#include "lockstep/runtime/cuda/kernels/random_bodies.h"
#include "lockstep/runtime/random/uniform.h"

namespace lockstep::cuda {
namespace {

// Samples [first, first + count) of a dropout.
struct Samples {
  View x, y;
  double p, beta;
  RandomKey key;
  int64_t count, width;
};

template <class C, bool kWide>
void drop(const Samples& s, Queue& queue) {
  const double threshold = s.p * 0x1p32;
  const int64_t elements = kWide ? kPack : 4;
  const int64_t items = (s.width + elements - 1) / elements;
  launch_elements(
      DropoutBody<C, kWide>{queue.device_key(s.key),
                            static_cast<uint32_t>(threshold < 0x1p32 - 1 ? threshold : 0x1p32 - 1),
                            static_cast<C>(1 / (1 - s.p)), static_cast<C>(s.beta), Operand(s.x),
                            Operand(s.y), s.width, Divisor(static_cast<uint32_t>(items))},
      s.count * items, queue);
}

void drop_any(const Samples& s, Queue& queue) {
  if (s.x.dtype == DType::f64) return drop<double, false>(s, queue);
  if (s.width % kPack == 0 && is_aligned(s.x) && is_aligned(s.y)) {
    return drop<float, true>(s, queue);
  }
  drop<float, false>(s, queue);
}

template <class Pair>
void fill_pairs(const Pair& pair, const View& y, RandomKey key, uint64_t first, Queue& queue) {
  const auto count = static_cast<uint64_t>(y.elements());
  const auto most = static_cast<uint64_t>(kMostElements);
  for (uint64_t begin = 0; begin < count; begin += most) {
    const uint64_t n = count - begin < most ? count - begin : most;
    const uint64_t start = first + begin;
    View part = y;
    part.data = static_cast<char*>(y.data) + begin * size_of(y.dtype);
    const uint64_t blocks = (start + n - 1) / 2 - start / 2 + 1;
    launch_elements(PairsBody<Pair>{pair, queue.device_key(key), start, n, Operand(part)},
                    static_cast<int64_t>(blocks), queue);
  }
}

}  // namespace

void dropout(const View& x, double p, RandomKey key, const View& y, double beta, Queue& queue) {
  if (x.elements() == 0) return;
  if (p >= 1) return beta == 0 ? fill(y, 0, queue) : scale_add(beta, y, 0, y, queue);
  const int64_t count = x.rank == 0 ? 1 : x.shape[0];
  const int64_t width = x.elements() / count;
  const int64_t fit = kMostElements / (width / 4 + 1);
  const int64_t most = fit > 1 ? fit : 1;  // samples of a launch
  for (int64_t begin = 0; begin < count; begin += most) {
    Samples part{x, y, p, beta, key, count - begin < most ? count - begin : most, width};
    const int64_t offset = begin * width * static_cast<int64_t>(size_of(x.dtype));
    part.x.data = static_cast<char*>(x.data) + offset;
    part.y.data = static_cast<char*>(y.data) + offset;
    part.key.first_sample += static_cast<uint32_t>(begin);
    drop_any(part, queue);
  }
}

void uniform(const View& y, double low, double high, RandomKey key, uint64_t first, Queue& queue) {
  fill_pairs(UniformPair{low, high, last_of_uniform(low, high, y.dtype)}, y, key, first, queue);
}

void normal(const View& y, double mean, double deviation, RandomKey key, uint64_t first,
            Queue& queue) {
  fill_pairs(NormalPair{mean, deviation}, y, key, first, queue);
}

}  // namespace lockstep::cuda
