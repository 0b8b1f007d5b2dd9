#pragma once

#include <cstdint>
#include <cstdlib>
#include <utility>

#include "lockstep/runtime/cuda/access.h"
#include "lockstep/runtime/view.h"

// What hosts do with the dimensions of views before a kernel counts in them.
namespace lockstep::cuda {

// Elements that one launch counts.
inline constexpr int64_t kMostElements = int64_t{1} << 31;

inline View without_dim(const View& view, int dim) {
  View rest = view;
  rest.rank = 0;
  for (int i = 0; i < view.rank; ++i) {
    if (i == dim) continue;
    rest.shape[rest.rank] = view.shape[i];
    rest.strides[rest.rank++] = view.strides[i];
  }
  return rest;
}

// Removes dimensions of size 1 and puts the others of all `views` (of one shape) in the order in
// which views[0] lies in memory, the densest last: neighbouring threads write neighbours.
template <int kViews>
void sort_dimensions(View (&views)[kViews]) {
  for (int d = views[0].rank - 1; d >= 0; --d) {
    if (views[0].shape[d] != 1) continue;
    for (View& view : views) view = without_dim(view, d);
  }
  const View& first = views[0];
  for (int end = 1; end < first.rank; ++end) {
    for (int d = end; d > 0; --d) {
      if (std::abs(first.strides[d - 1]) >= std::abs(first.strides[d])) break;
      for (View& view : views) {
        std::swap(view.shape[d - 1], view.shape[d]);
        std::swap(view.strides[d - 1], view.strides[d]);
      }
    }
  }
}

// Whether the last dimension is dense and falls into packs of `elements`, which all begin on a
// 16-byte boundary.
inline bool has_packs(const View& view, int64_t elements) {
  if (view.rank == 0 || reinterpret_cast<uintptr_t>(view.data) % sizeof(Sixteen) != 0) return false;
  const int last = view.rank - 1;
  if (view.strides[last] != 1 || view.shape[last] % elements != 0) return false;
  for (int d = 0; d < last; ++d) {
    if (view.shape[d] != 1 && view.strides[d] % elements != 0) return false;
  }
  return true;
}

// The view of the first element of each pack.
inline View first_of_packs(const View& view, int64_t elements) {
  View packs = view;
  packs.shape[view.rank - 1] /= elements;
  packs.strides[view.rank - 1] *= elements;
  return packs;
}

// The part of a view with places [begin, begin + count) of `dim`.
inline View narrowed(const View& view, int dim, int64_t begin, int64_t count) {
  View part = view;
  part.shape[dim] = count;
  part.data = static_cast<char*>(view.data) +
              begin * view.strides[dim] * static_cast<int64_t>(size_of(view.dtype));
  return part;
}

inline int longest_dimension(const View& view) {
  int longest = 0;
  for (int d = 1; d < view.rank; ++d) {
    if (view.shape[d] > view.shape[longest]) longest = d;
  }
  return longest;
}

// Calls f(parts) with parts of all views (of one shape) of fewer than kMostElements elements each,
// which together are the whole, earlier places first.
template <int kViews, class F>
void for_parts(const View (&views)[kViews], const F& f) {
  if (views[0].elements() < kMostElements) return f(views);
  const int dim = longest_dimension(views[0]);
  const int64_t size = views[0].shape[dim], half = size / 2;
  View first[kViews], second[kViews];
  for (int i = 0; i < kViews; ++i) {
    first[i] = narrowed(views[i], dim, 0, half);
    second[i] = narrowed(views[i], dim, half, size - half);
  }
  for_parts(first, f);
  for_parts(second, f);
}

}  // namespace lockstep::cuda
