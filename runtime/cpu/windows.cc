#include "lockstep/runtime/cpu/windows.h"

#include <algorithm>

#include "lockstep/runtime/cpu/convert.h"

namespace lockstep::cpu {

namespace {

void swap_dims(Windows& all, int a, int b) {
  std::swap(all.shape[a], all.shape[b]);
  for (int w = 0; w < all.count; ++w) {
    std::swap(all.windows[w].strides[a], all.windows[w].strides[b]);
  }
}

void order_by_last(Windows& all) {
  const int64_t* strides = all.windows[all.count - 1].strides;
  for (int i = 1; i < all.rank; ++i) {
    for (int j = i; j > 0 && strides[j - 1] < strides[j]; --j) swap_dims(all, j - 1, j);
  }
}

void merge(Windows& all) {
  int kept = 0;
  for (int i = 1; i < all.rank; ++i) {
    bool fits = true;
    for (int w = 0; w < all.count; ++w) {
      const int64_t* strides = all.windows[w].strides;
      fits &= strides[kept] == strides[i] * all.shape[i];
    }
    if (fits) {
      all.shape[kept] *= all.shape[i];
    } else {
      all.shape[++kept] = all.shape[i];
    }
    for (int w = 0; w < all.count; ++w) {
      all.windows[w].strides[kept] = all.windows[w].strides[i];
    }
  }
  all.rank = kept + 1;
}

}  // namespace

Windows::Windows(std::initializer_list<const View*> views) {
  const View& last = **(views.end() - 1);
  for (int i = 0; i < last.rank; ++i) {
    elements *= last.shape[i];
    if (last.shape[i] == 1) continue;
    shape[rank] = last.shape[i];
    int w = 0;
    for (const View* view : views) {
      windows[w++].strides[rank] = view->data == nullptr ? 0 : view->strides[i];
    }
    ++rank;
  }
  for (const View* view : views) {
    windows[count].data = static_cast<char*>(view->data);
    windows[count++].dtype = view->dtype;
  }
  if (rank == 0) {
    shape[rank++] = 1;
    for (int w = 0; w < count; ++w) windows[w].strides[0] = 1;
    return;
  }
  order_by_last(*this);
  merge(*this);
}

bool Windows::constant(int window) const {
  const int64_t* strides = windows[window].strides;
  return std::all_of(strides, strides + rank, [](int64_t stride) { return stride == 0; });
}

void gather(const Loops& loops, const Windows& all, int window, int64_t start, int64_t n, void* to,
            DType dtype) {
  const Windows::Window& from = all.windows[window];
  const int64_t stride = from.strides[all.rank - 1];
  char* target = static_cast<char*>(to);
  const int64_t size = static_cast<int64_t>(size_of(dtype));
  for_runs(all, start, n, [&](const Cursor& at, int64_t offset, int64_t run) {
    convert(loops, at.pointer(window), from.dtype, stride, target + offset * size, dtype, 1, run);
  });
}

void scatter(const Loops& loops, const Windows& all, int window, int64_t start, int64_t n,
             const void* from, DType dtype) {
  const Windows::Window& to = all.windows[window];
  const int64_t stride = to.strides[all.rank - 1];
  const char* source = static_cast<const char*>(from);
  const int64_t size = static_cast<int64_t>(size_of(dtype));
  for_runs(all, start, n, [&](const Cursor& at, int64_t offset, int64_t run) {
    convert(loops, source + offset * size, dtype, 1, at.pointer(window), to.dtype, stride, run);
  });
}

}  // namespace lockstep::cpu
