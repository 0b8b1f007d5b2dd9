#include <math.h>

#include "lockstep/runtime/cuda/kernels/channels.h"
#include "lockstep/runtime/cuda/kernels/dimensions.h"
#include "lockstep/runtime/cuda/kernels/elements.h"
#include "lockstep/runtime/cuda/kernels/operand.h"
#include "lockstep/runtime/error.h"

namespace lockstep::cuda {
namespace {

constexpr int kSpatial = WindowOptions::kMost;
constexpr int kDimensions = 2 + kSpatial;  // batch, channels, and the spatial ones padded to three

// Strides of a view, those of absent spatial dimensions 0.
struct PoolStrides {
  int64_t of[kDimensions] = {};

  PoolStrides() = default;
  explicit PoolStrides(const View& view) {
    for (int d = 0; d < view.rank; ++d) {
      of[d < 2 ? d : d + kDimensions - view.rank] = view.strides[d];
    }
  }
};

// The places of a view, each of `wide` neighbouring channels, as threads go over them: along the
// dimension in which they lie side by side.
struct PoolPlaces {
  Divisor channels, size[kSpatial];  // channels in units of `wide`
  bool channels_last = false;

  PoolPlaces() = default;
  PoolPlaces(const View& view, int wide)
      : channels(static_cast<uint32_t>(view.shape[1] / wide)), channels_last(view.strides[1] == 1) {
    for (int d = 0; d < kSpatial; ++d) size[d] = Divisor(static_cast<uint32_t>(size_of(view, d)));
  }
  // Of a spatial dimension, 1 of an absent one.
  static int64_t size_of(const View& view, int d) {
    const int of_view = d + view.rank - kSpatial;
    return of_view < 2 ? 1 : view.shape[of_view];
  }
  LOCKSTEP_HD void find(uint32_t item, uint32_t (&at)[kDimensions]) const {
    const auto take = [&](const Divisor& count, uint32_t* here) {
      const uint32_t outer = count.divide(item);
      *here = item - outer * count.value;
      item = outer;
    };
    if (channels_last) take(channels, &at[1]);
    for (int d = kSpatial - 1; d >= 0; --d) take(size[d], &at[2 + d]);
    if (!channels_last) take(channels, &at[1]);
    at[0] = item;
  }
};

// One window of kWide neighbouring channels. Place: of a place in an image, int unless it is large.
template <class C, int kWide, class Place>
struct MaxPoolBody {
  Operand x, y;
  int64_t* index;
  PoolStrides x_strides, y_strides, index_strides;
  PoolPlaces places_of_y;
  Place x_size[kSpatial], kernel[kSpatial], stride[kSpatial], padding[kSpatial], dilation[kSpatial];

  LOCKSTEP_HD void one(uint32_t item) const {
    uint32_t at[kDimensions];
    places_of_y.find(item, at);
    int64_t from = at[0] * x_strides.of[0] + int64_t{at[1]} * kWide * x_strides.of[1];
    Place begin[kSpatial];
    for (int d = 0; d < kSpatial; ++d) {
      begin[d] = static_cast<Place>(at[2 + d]) * stride[d] - padding[d];
    }
    C best[kWide];
    Place places[kWide];
    for (int i = 0; i < kWide; ++i) {
      best[i] = -static_cast<C>(INFINITY);
      places[i] = -1;
    }
    for (Place i = 0; i < kernel[0]; ++i) {
      const Place depth = begin[0] + i * dilation[0];
      if (depth < 0 || depth >= x_size[0]) continue;
      for (Place j = 0; j < kernel[1]; ++j) {
        const Place row = begin[1] + j * dilation[1];
        if (row < 0 || row >= x_size[1]) continue;
        const int64_t line = from + depth * x_strides.of[2] + row * x_strides.of[3];
        const Place place = (depth * x_size[1] + row) * x_size[2];
        for (Place k = 0; k < kernel[2]; ++k) {
          const Place column = begin[2] + k * dilation[2];
          if (column < 0 || column >= x_size[2]) continue;
          keep_largest(line + column * x_strides.of[4], place + column, best, places);
        }
      }
    }
    write(at, best, places);
  }

 private:
  // NaN is the largest, and stays.
  LOCKSTEP_HD void keep_largest(int64_t at, Place place, C (&best)[kWide],
                                Place (&places)[kWide]) const {
    C values[kWide];
    if constexpr (kWide == kPack) {
      load_pack(x.data, x.dtype, at, values);
    } else {
      values[0] = x.get<C>(at);
    }
    for (int i = 0; i < kWide; ++i) {
      const bool better = (!(values[i] <= best[i]) && best[i] == best[i]) || places[i] < 0;
      best[i] = better ? values[i] : best[i];
      places[i] = better ? place : places[i];
    }
  }
  LOCKSTEP_HD static int64_t offset(const PoolStrides& strides, const uint32_t (&at)[kDimensions]) {
    int64_t sum = int64_t{at[1]} * kWide * strides.of[1];
    for (int d = 0; d < kDimensions; ++d) {
      if (d != 1) sum += at[d] * strides.of[d];
    }
    return sum;
  }
  LOCKSTEP_HD void write(const uint32_t (&at)[kDimensions], const C (&best)[kWide],
                         const Place (&places)[kWide]) const {
    int64_t* to = index + offset(index_strides, at);
    if constexpr (kWide == kPack) {
      int64_t chosen[kWide];
      for (int i = 0; i < kWide; ++i) chosen[i] = places[i];
      store_pack(y.data, y.dtype, offset(y_strides, at), best);
      store_together(to, chosen);
    } else {
      to[0] = places[0];
      y.put<C>(offset(y_strides, at), best[0]);
    }
  }
};

// One place of an image, of kWide neighbouring channels: the windows that see it, the last
// dimension fastest.
template <class C, int kWide, class Place>
struct MaxPoolBackwardBody {
  Operand dy, dx;
  const int64_t* index;
  PoolStrides dy_strides, dx_strides, index_strides;
  PoolPlaces places_of_dx;
  Place windows[kSpatial], kernel[kSpatial], padding[kSpatial], dilation[kSpatial];
  Divisor stride[kSpatial];

  LOCKSTEP_HD void one(uint32_t item) const {
    uint32_t at[kDimensions];
    places_of_dx.find(item, at);
    const int64_t image = at[0], channel = int64_t{at[1]} * kWide;
    int64_t place = 0;
    for (int d = 0; d < kSpatial; ++d) place = place * places_of_dx.size[d].value + at[2 + d];
    C sums[kWide] = {};
    // Of the first dimension the last entry of the window belongs to the first window.
    for (Place i = kernel[0]; i-- > 0;) {
      const Place depth = window_at(0, at[2], i);
      if (depth < 0) continue;
      for (Place j = kernel[1]; j-- > 0;) {
        const Place row = window_at(1, at[3], j);
        if (row < 0) continue;
        for (Place k = kernel[2]; k-- > 0;) {
          const Place column = window_at(2, at[4], k);
          if (column < 0) continue;
          const auto from = [&](const PoolStrides& s) {
            return image * s.of[0] + channel * s.of[1] + depth * s.of[2] + row * s.of[3] +
                   column * s.of[4];
          };
          add(from(index_strides), from(dy_strides), place, sums);
        }
      }
    }
    int64_t to = image * dx_strides.of[0] + channel * dx_strides.of[1];
    for (int d = 0; d < kSpatial; ++d) to += at[2 + d] * dx_strides.of[2 + d];
    if constexpr (kWide == kPack) {
      store_pack(dx.data, dx.dtype, to, sums);
    } else {
      dx.put<C>(to, sums[0]);
    }
  }

 private:
  // The window of which `entry` is at place `at` of a dimension; below 0: none.
  LOCKSTEP_HD Place window_at(int d, uint32_t at, Place entry) const {
    const Place begin = static_cast<Place>(at) + padding[d] - entry * dilation[d];
    if (begin < 0) return -1;
    const auto window = static_cast<Place>(stride[d].divide(static_cast<uint32_t>(begin)));
    const bool begins = window * static_cast<Place>(stride[d].value) == begin;
    return begins && window < windows[d] ? window : -1;
  }
  LOCKSTEP_HD void add(int64_t index_at, int64_t dy_at, int64_t place, C (&sums)[kWide]) const {
    if constexpr (kWide == kPack) {
      int64_t chosen[kWide];
      C values[kWide];
      load_together(index + index_at, chosen);
      load_pack(dy.data, dy.dtype, dy_at, values);
      for (int i = 0; i < kWide; ++i) sums[i] += chosen[i] == place ? values[i] : C(0);
    } else if (index[index_at] == place) {
      sums[0] += dy.get<C>(dy_at);
    }
  }
};

// Whether channels lie side by side in packs.
bool has_channel_packs(const View& view) {
  View last = view;
  std::swap(last.shape[1], last.shape[view.rank - 1]);
  std::swap(last.strides[1], last.strides[view.rank - 1]);
  return has_packs(last, kPack);
}

// Of a spatial dimension of three, an entry of the options, or `absent`.
int64_t entry_of(const int64_t* entries, const WindowOptions& options, int d, int64_t absent) {
  const int of_window = d + options.spatial - kSpatial;
  return of_window < 0 ? absent : entries[of_window];
}

template <class C, int kWide, class Place>
void max_pool_part(const View& x, const WindowOptions& options, const View& y, const View& index,
                   Queue& queue) {
  MaxPoolBody<C, kWide, Place> body;
  body.x = Operand(x);
  body.y = Operand(y);
  body.index = index.as<int64_t>();
  body.x_strides = PoolStrides(x);
  body.y_strides = PoolStrides(y);
  body.index_strides = PoolStrides(index);
  body.places_of_y = PoolPlaces(y, kWide);
  for (int d = 0; d < kSpatial; ++d) {
    body.x_size[d] = static_cast<Place>(PoolPlaces::size_of(x, d));
    body.kernel[d] = static_cast<Place>(entry_of(options.kernel, options, d, 1));
    body.stride[d] = static_cast<Place>(entry_of(options.stride, options, d, 1));
    body.padding[d] = static_cast<Place>(entry_of(options.padding, options, d, 0));
    body.dilation[d] = static_cast<Place>(entry_of(options.dilation, options, d, 1));
  }
  launch_elements(body, y.elements() / kWide, queue);
}

template <class C, int kWide>
void max_pool_backward_part(const View& dy, const View& index, const WindowOptions& options,
                            const View& dx, Queue& queue) {
  MaxPoolBackwardBody<C, kWide, int64_t> body;
  body.dy = Operand(dy);
  body.dx = Operand(dx);
  body.index = index.as<int64_t>();
  body.dy_strides = PoolStrides(dy);
  body.dx_strides = PoolStrides(dx);
  body.index_strides = PoolStrides(index);
  body.places_of_dx = PoolPlaces(dx, kWide);
  for (int d = 0; d < kSpatial; ++d) {
    body.windows[d] = PoolPlaces::size_of(dy, d);
    body.kernel[d] = entry_of(options.kernel, options, d, 1);
    body.stride[d] = Divisor(static_cast<uint32_t>(entry_of(options.stride, options, d, 1)));
    body.padding[d] = entry_of(options.padding, options, d, 0);
    body.dilation[d] = entry_of(options.dilation, options, d, 1);
  }
  launch_elements(body, dx.elements() / kWide, queue);
}

int64_t elements_of_image(const View& view) {
  int64_t elements = 1;
  for (int d = 2; d < view.rank; ++d) elements *= view.shape[d];
  return elements;
}

}  // namespace

void max_pool(const View& x, const WindowOptions& options, const View& y, const View& index,
              Queue& queue) {
  if (y.elements() == 0) return;
  if (y.elements() >= kMostElements) {
    const int dim = longest_dimension(y), window = dim - y.rank + options.spatial;
    const int64_t half = y.shape[dim] / 2;
    for (const int64_t begin : {int64_t{0}, half}) {
      const int64_t count = begin == 0 ? half : y.shape[dim] - half;
      WindowOptions part = options;
      // The windows of a part begin as many strides later.
      if (dim >= 2) part.padding[window] -= begin * options.stride[window];
      max_pool(dim < 2 ? narrowed(x, dim, begin, count) : x, part, narrowed(y, dim, begin, count),
               narrowed(index, dim, begin, count), queue);
    }
    return;
  }
  const bool large = elements_of_image(x) >= kMostElements;
  if (y.dtype == DType::f64) {
    return large ? max_pool_part<double, 1, int64_t>(x, options, y, index, queue)
                 : max_pool_part<double, 1, int>(x, options, y, index, queue);
  }
  if (large) return max_pool_part<float, 1, int64_t>(x, options, y, index, queue);
  if (has_channel_packs(x) && has_channel_packs(y) && has_channel_packs(index)) {
    return max_pool_part<float, kPack, int>(x, options, y, index, queue);
  }
  max_pool_part<float, 1, int>(x, options, y, index, queue);
}

// Images, or channels, of which there are too many for one launch are halved.
void max_pool_backward(const View& dy, const View& index, const WindowOptions& options,
                       const View& dx, Queue& queue) {
  if (dx.elements() == 0) return;
  const int dim = dx.shape[0] > 1 ? 0 : 1;
  if (dx.elements() >= kMostElements && dx.shape[dim] > 1) {
    const int64_t half = dx.shape[dim] / 2;
    for (const int64_t begin : {int64_t{0}, half}) {
      const int64_t count = begin == 0 ? half : dx.shape[dim] - half;
      max_pool_backward(narrowed(dy, dim, begin, count), narrowed(index, dim, begin, count),
                        options, narrowed(dx, dim, begin, count), queue);
    }
    return;
  }
  LOCKSTEP_CHECK(dx.elements() < kMostElements, "the gradient of max pooling for a channel of ",
                 dx.elements(), " elements");
  if (dx.dtype == DType::f64) {
    return max_pool_backward_part<double, 1>(dy, index, options, dx, queue);
  }
  if (has_channel_packs(dy) && has_channel_packs(index) && has_channel_packs(dx)) {
    return max_pool_backward_part<float, kPack>(dy, index, options, dx, queue);
  }
  max_pool_backward_part<float, 1>(dy, index, options, dx, queue);
}

}  // namespace lockstep::cuda
