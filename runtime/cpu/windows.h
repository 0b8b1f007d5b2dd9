#pragma once

#include <cstdint>
#include <initializer_list>

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/view.h"

namespace lockstep::cpu {

// Several strided windows of one shape that a kernel walks together. Dimensions are ordered by the
// last window's strides and merged where every window allows it, so that the innermost is as long
// as it can be. Windows without data are absent. Elements are counted in the merged order.
struct Windows {
  static constexpr int kMost = 5;

  struct Window {
    char* data = nullptr;
    DType dtype = DType::f32;
    int64_t strides[View::kMaxRank] = {};
  };

  explicit Windows(std::initializer_list<const View*> views);

  int64_t inner() const { return shape[rank - 1]; }
  bool unit_stride(int window) const { return windows[window].strides[rank - 1] == 1; }
  // All elements are one value (a scalar that was broadcast).
  bool constant(int window) const;

  int rank = 0;  // at least 1
  int64_t shape[View::kMaxRank] = {};
  int64_t elements = 1;
  int count = 0;
  Window windows[kMost];
};

// Where an element lies in every window, moved along run by run.
class Cursor {
 public:
  Cursor(const Windows& all, int64_t start) : all_(all) {
    for (int i = all.rank - 1; i >= 0; --i) {
      index_[i] = start % all.shape[i];
      start /= all.shape[i];
      for (int w = 0; w < all.count; ++w) position_[w] += index_[i] * all.windows[w].strides[i];
    }
  }

  // Null for an absent window.
  char* pointer(int window) const {
    const Windows::Window& w = all_.windows[window];
    if (w.data == nullptr) return nullptr;
    return w.data + position_[window] * static_cast<int64_t>(size_of(w.dtype));
  }
  // Elements left in this run.
  int64_t run() const { return all_.shape[all_.rank - 1] - index_[all_.rank - 1]; }
  // n <= run()
  void advance(int64_t n) {
    const int last = all_.rank - 1;
    index_[last] += n;
    for (int w = 0; w < all_.count; ++w) position_[w] += n * all_.windows[w].strides[last];
    for (int i = last; i > 0 && index_[i] == all_.shape[i]; --i) {
      index_[i] = 0;
      ++index_[i - 1];
      for (int w = 0; w < all_.count; ++w) {
        const int64_t* strides = all_.windows[w].strides;
        position_[w] += strides[i - 1] - all_.shape[i] * strides[i];
      }
    }
  }

 private:
  const Windows& all_;
  int64_t index_[View::kMaxRank];
  int64_t position_[Windows::kMost] = {};
};

// Calls f(cursor, offset, n) for the runs that make up elements [start, start + n); `offset` counts
// from start.
template <class F>
void for_runs(const Windows& all, int64_t start, int64_t n, const F& f) {
  Cursor cursor(all, start);
  for (int64_t done = 0; done < n;) {
    const int64_t run = cursor.run() < n - done ? cursor.run() : n - done;
    f(cursor, done, run);
    cursor.advance(run);
    done += run;
  }
}

// Elements [start, start + n) of a window, converted, to contiguous memory and back.
void gather(const Loops& loops, const Windows& all, int window, int64_t start, int64_t n, void* to,
            DType dtype);
void scatter(const Loops& loops, const Windows& all, int window, int64_t start, int64_t n,
             const void* from, DType dtype);

}  // namespace lockstep::cpu
