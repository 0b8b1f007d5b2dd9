#include "lockstep/runtime/cpu/recurrence.h"

#include <algorithm>
#include <cstdlib>
#include <type_traits>

#include "lockstep/runtime/cpu/windows.h"
#include "lockstep/runtime/parallel.h"

namespace lockstep::cpu {

namespace {

constexpr int64_t kGrain = 16 * 1024;  // values worth a thread
constexpr int64_t kColumnBlock = 256;

// The running value: integers wrap.
template <class T>
using Running = std::conditional_t<std::is_integral_v<T>, uint64_t, double>;

template <class T>
Running<T> load(T value) {
  if constexpr (sizeof(T) == 2) {
    return static_cast<float>(value);
  } else {
    return static_cast<Running<T>>(value);
  }
}

template <class T>
T store(Running<T> value) {
  if constexpr (sizeof(T) == 2) {
    return T(static_cast<float>(value));
  } else {
    return static_cast<T>(value);
  }
}

// One window's steps: along the recurrence and from one recurrence to its neighbour.
template <class T>
struct Lane {
  T* data;
  int64_t step, stride;

  T& at(int64_t i, int64_t j) const { return data[i * step + j * stride]; }
};

// `n` <= kBlock neighbouring recurrences of `count` elements; kScaled: a is there.
template <int64_t kBlock, class T, bool kScaled>
void run_together(const Lane<const T>& a, const Lane<const T>& b, const Lane<T>& s, int64_t count,
                  int64_t n) {
  if constexpr (kBlock == 1) n = 1;
  Running<T> running[kBlock];
  for (int64_t j = 0; j < n; ++j) {
    running[j] = load(b.at(0, j));
    s.at(0, j) = store<T>(running[j]);
  }
  for (int64_t i = 1; i < count; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      if constexpr (kScaled) running[j] *= load(a.at(i, j));
      running[j] += load(b.at(i, j));
      s.at(i, j) = store<T>(running[j]);
    }
  }
}

template <class T, bool kScaled>
void run(const View& a, const View& b, int dim, bool reverse, const View& s) {
  View rest[3] = {a, b, s};
  const int64_t count = s.shape[dim];
  int64_t steps[3];
  int64_t starts[3];  // elements to where the recurrence begins
  for (int w = 0; w < 3; ++w) {
    steps[w] = reverse ? -rest[w].strides[dim] : rest[w].strides[dim];
    starts[w] = reverse ? rest[w].strides[dim] * (count - 1) : 0;
    rest[w].shape[dim] = 1;
  }
  const Windows all({&rest[0], &rest[1], &rest[2]});
  const int last = all.rank - 1;
  const auto lane = [&]<class U>(const Cursor& at, int w, U*) {
    return Lane<U>{reinterpret_cast<U*>(at.pointer(w)) + starts[w], steps[w],
                   all.windows[w].strides[last]};
  };
  const bool along = std::abs(steps[2]) <= std::abs(all.windows[2].strides[last]);
  const int64_t block = along ? 1 : kColumnBlock;
  parallel_for(all.elements, std::max<int64_t>(1, kGrain / count), [&](int64_t begin, int64_t end) {
    Cursor at(all, begin);
    while (begin < end) {
      const int64_t n = std::min({block, at.run(), end - begin});
      Lane<const T> scale{};
      if constexpr (kScaled) scale = lane(at, 0, static_cast<const T*>(nullptr));
      const auto function =
          along ? &run_together<1, T, kScaled> : &run_together<kColumnBlock, T, kScaled>;
      function(scale, lane(at, 1, static_cast<const T*>(nullptr)),
               lane(at, 2, static_cast<T*>(nullptr)), count, n);
      at.advance(n);
      begin += n;
    }
  });
}

}  // namespace

void recurrence(const Loops&, const View& a, const View& b, int dim, bool reverse, const View& s) {
  if (s.elements() == 0) return;
  dispatch(s.dtype, [&]<class T>(Type<T>) {
    if (a.data == nullptr) return run<T, false>(a, b, dim, reverse, s);
    run<T, true>(a, b, dim, reverse, s);
  });
}

}  // namespace lockstep::cpu
