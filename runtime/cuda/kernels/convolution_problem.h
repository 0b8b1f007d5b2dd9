#pragma once

#include <cstdint>

#include "lockstep/runtime/cuda/access.h"
#include "lockstep/runtime/cuda/strided.h"
#include "lockstep/runtime/host_device.h"
#include "lockstep/runtime/kernels.h"

// A convolution as a product of matrices [rows, inner] and [columns, inner] for each group. Rows,
// columns and inner are numbers of places (an image's pixels) or of taps (a place of the kernel and
// a channel). Each counts below 2^31.
namespace lockstep::cuda::own {

inline constexpr int kSpatial = WindowOptions::kMost;

// An operand [batch or out, channels, spatial…]; spatial dimensions that were not given, the first,
// have size 1.
struct Image {
  void* data;
  DType dtype;
  int64_t batch_stride, channel_stride, strides[kSpatial];
  int64_t sizes[kSpatial];

  explicit Image(const View& view)
      : data(view.data),
        dtype(view.dtype),
        batch_stride(view.strides[0]),
        channel_stride(view.strides[1]) {
    for (int i = 0; i < kSpatial; ++i) {
      const int d = view.rank - kSpatial + i;
      sizes[i] = d >= 2 ? view.shape[d] : 1;
      strides[i] = d >= 2 ? view.strides[d] : 0;
    }
  }
  int64_t pixels() const { return sizes[0] * sizes[1] * sizes[2]; }
  LOCKSTEP_HD int64_t offset(int64_t batch, int64_t channel, const int64_t (&at)[kSpatial]) const {
    return batch * batch_stride + channel * channel_stride + at[0] * strides[0] +
           at[1] * strides[1] + at[2] * strides[2];
  }
};

// One of a number, and a place in three dimensions.
struct Coordinates {
  int64_t outer;  // an image, or a channel
  int64_t at[kSpatial];
};

// Numbers of places within images, the last dimension fastest.
struct Places {
  Divisor sizes[kSpatial];

  explicit Places(const Image& image) {
    for (int i = 0; i < kSpatial; ++i) sizes[i] = Divisor(static_cast<uint32_t>(image.sizes[i]));
  }
  LOCKSTEP_HD Coordinates operator()(uint32_t index) const {
    Coordinates result;
    for (int i = kSpatial - 1; i >= 0; --i) {
      const uint32_t rest = sizes[i].divide(index);
      result.at[i] = index - rest * sizes[i].value;
      index = rest;
    }
    result.outer = index;
    return result;
  }
};

// Numbers of taps, the channel fastest.
struct Taps {
  Divisor channels, sizes[2];

  Taps(const Image& w, int64_t channel_count) : channels(static_cast<uint32_t>(channel_count)) {
    for (int i = 0; i < 2; ++i) sizes[i] = Divisor(static_cast<uint32_t>(w.sizes[i + 1]));
  }
  LOCKSTEP_HD Coordinates operator()(uint32_t index) const {
    Coordinates result;
    const uint32_t tap = channels.divide(index);
    result.outer = index - tap * channels.value;
    const uint32_t line = sizes[1].divide(tap);
    result.at[2] = tap - line * sizes[1].value;
    const uint32_t plane = sizes[0].divide(line);
    result.at[1] = line - plane * sizes[0].value;
    result.at[0] = plane;
    return result;
  }
};

struct Window {
  int64_t stride[kSpatial], padding[kSpatial], dilation[kSpatial];

  explicit Window(const WindowOptions& options) {
    for (int i = 0; i < kSpatial; ++i) {
      const int given = i - (kSpatial - options.spatial);
      stride[i] = given < 0 ? 1 : options.stride[given];
      padding[i] = given < 0 ? 0 : options.padding[given];
      dilation[i] = given < 0 ? 1 : options.dilation[given];
    }
  }
  // Where in x a place of y and a tap meet.
  LOCKSTEP_HD bool input(const Coordinates& y, const Coordinates& tap,
                         const int64_t (&sizes)[kSpatial], int64_t (&at)[kSpatial]) const {
    bool inside = true;
    for (int i = 0; i < kSpatial; ++i) {
      at[i] = y.at[i] * stride[i] - padding[i] + tap.at[i] * dilation[i];
      inside = inside && at[i] >= 0 && at[i] < sizes[i];
    }
    return inside;
  }
  // The place of y that reads this place of x at the tap.
  LOCKSTEP_HD bool output(const Coordinates& x, const Coordinates& tap,
                          const int64_t (&sizes)[kSpatial], int64_t (&at)[kSpatial]) const {
    bool inside = true;
    for (int i = 0; i < kSpatial; ++i) {
      const int64_t from = x.at[i] + padding[i] - tap.at[i] * dilation[i];
      at[i] = stride[i] == 1 ? from : from / stride[i];
      inside = inside && from >= 0 && at[i] * stride[i] == from && at[i] < sizes[i];
    }
    return inside;
  }
};

// How many rows, columns and inner a group has, and whether neighbouring threads read neighbours
// along inner (else along rows or columns): what lies together in memory.
struct ProductSizes {
  int rows, columns, inner;
  bool left_along_inner, right_along_inner;
};

// y [place, out] = x [place, tap] w [out, tap].
template <class C>
struct ForwardProblem {
  Image x, w, y;
  Window window;
  Places places;
  Taps taps;
  int64_t in, out;  // of a group
  ProductSizes sizes;

  LOCKSTEP_HD Coordinates row(int index) const { return places(static_cast<uint32_t>(index)); }
  LOCKSTEP_HD int64_t column(int index) const { return index; }
  LOCKSTEP_HD Coordinates inner(int index) const { return taps(static_cast<uint32_t>(index)); }
  LOCKSTEP_HD C left(int64_t group, const Coordinates& place, const Coordinates& tap) const {
    int64_t at[kSpatial];
    if (!window.input(place, tap, x.sizes, at)) return C(0);
    return load<C>(x.data, x.dtype, x.offset(place.outer, group * in + tap.outer, at));
  }
  LOCKSTEP_HD C right(int64_t group, int64_t channel, const Coordinates& tap) const {
    return load<C>(w.data, w.dtype, w.offset(group * out + channel, tap.outer, tap.at));
  }
  LOCKSTEP_HD void put(int64_t group, int, const Coordinates& place, int64_t channel,
                       C value) const {
    store<C>(y.data, y.dtype, y.offset(place.outer, group * out + channel, place.at), value);
  }
};

// dx [place, in] = dy [place, tap] w [in, tap] + beta dx, where a tap's channel is one of out.
template <class C>
struct InputGradientProblem {
  Image dy, w, dx;
  Window window;
  Places places;
  Taps taps;
  int64_t in, out;
  ProductSizes sizes;
  double beta;

  LOCKSTEP_HD Coordinates row(int index) const { return places(static_cast<uint32_t>(index)); }
  LOCKSTEP_HD int64_t column(int index) const { return index; }
  LOCKSTEP_HD Coordinates inner(int index) const { return taps(static_cast<uint32_t>(index)); }
  LOCKSTEP_HD C left(int64_t group, const Coordinates& place, const Coordinates& tap) const {
    int64_t at[kSpatial];
    if (!window.output(place, tap, dy.sizes, at)) return C(0);
    return load<C>(dy.data, dy.dtype, dy.offset(place.outer, group * out + tap.outer, at));
  }
  LOCKSTEP_HD C right(int64_t group, int64_t channel, const Coordinates& tap) const {
    return load<C>(w.data, w.dtype, w.offset(group * out + tap.outer, channel, tap.at));
  }
  LOCKSTEP_HD void put(int64_t group, int, const Coordinates& place, int64_t channel,
                       C value) const {
    const int64_t at = dx.offset(place.outer, group * in + channel, place.at);
    if (beta != 0) value += static_cast<C>(beta) * load<C>(dx.data, dx.dtype, at);
    store<C>(dx.data, dx.dtype, at, value);
  }
};

// dw [out, tap] = dy [out, place] x [tap, place], in parts over the places that are added later:
// sums [part, group, out, tap].
template <class C>
struct WeightGradientProblem {
  Image dy, x;
  Window window;
  Places places;
  Taps taps;
  int64_t in, out, groups;
  C* sums;
  ProductSizes sizes;

  LOCKSTEP_HD int64_t row(int index) const { return index; }
  LOCKSTEP_HD Coordinates column(int index) const { return taps(static_cast<uint32_t>(index)); }
  LOCKSTEP_HD Coordinates inner(int index) const { return places(static_cast<uint32_t>(index)); }
  LOCKSTEP_HD C left(int64_t group, int64_t channel, const Coordinates& place) const {
    return load<C>(dy.data, dy.dtype, dy.offset(place.outer, group * out + channel, place.at));
  }
  LOCKSTEP_HD C right(int64_t group, const Coordinates& tap, const Coordinates& place) const {
    int64_t at[kSpatial];
    if (!window.input(place, tap, x.sizes, at)) return C(0);
    return load<C>(x.data, x.dtype, x.offset(place.outer, group * in + tap.outer, at));
  }
  LOCKSTEP_HD void put(int64_t group, int part, int64_t channel, const Coordinates& tap,
                       C value) const {
    int64_t number = (tap.at[0] * taps.sizes[0].value + tap.at[1]) * taps.sizes[1].value;
    number = (number + tap.at[2]) * in + tap.outer;
    sums[((part * groups + group) * sizes.rows + channel) * sizes.columns + number] = value;
  }
};

}  // namespace lockstep::cuda::own
