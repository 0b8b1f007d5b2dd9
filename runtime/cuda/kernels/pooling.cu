#include <math.h>

#include "lockstep/runtime/cuda/kernels/channels.h"
#include "lockstep/runtime/cuda/kernels/dimensions.h"
#include "lockstep/runtime/cuda/kernels/elements.h"
#include "lockstep/runtime/cuda/kernels/operand.h"

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

// One window of kWide neighbouring channels.
template <class C, int kWide>
struct MaxPoolBody {
  Operand x, y;
  int64_t* index;
  PoolStrides x_strides, y_strides, index_strides;
  Divisor channels, size[kSpatial];  // of y; channels in units of kWide
  bool channels_last;                // which dimension neighbouring threads go along
  int x_size[kSpatial], kernel[kSpatial], stride[kSpatial], padding[kSpatial], dilation[kSpatial];

  LOCKSTEP_HD void one(uint32_t item) const {
    uint32_t at[kDimensions];
    place_of(item, at);
    int64_t from = at[0] * x_strides.of[0] + int64_t{at[1]} * kWide * x_strides.of[1];
    int begin[kSpatial];
    for (int d = 0; d < kSpatial; ++d) {
      begin[d] = static_cast<int>(at[2 + d]) * stride[d] - padding[d];
    }
    C best[kWide];
    int places[kWide];
    for (int i = 0; i < kWide; ++i) {
      best[i] = -static_cast<C>(INFINITY);
      places[i] = -1;
    }
    for (int i = 0; i < kernel[0]; ++i) {
      const int depth = begin[0] + i * dilation[0];
      if (depth < 0 || depth >= x_size[0]) continue;
      for (int j = 0; j < kernel[1]; ++j) {
        const int row = begin[1] + j * dilation[1];
        if (row < 0 || row >= x_size[1]) continue;
        const int64_t line = from + depth * x_strides.of[2] + row * x_strides.of[3];
        const int place = (depth * x_size[1] + row) * x_size[2];
        for (int k = 0; k < kernel[2]; ++k) {
          const int column = begin[2] + k * dilation[2];
          if (column < 0 || column >= x_size[2]) continue;
          keep_largest(line + column * x_strides.of[4], place + column, best, places);
        }
      }
    }
    write(at, best, places);
  }

 private:
  LOCKSTEP_HD void place_of(uint32_t item, uint32_t (&at)[kDimensions]) const {
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
  // NaN is the largest, and stays.
  LOCKSTEP_HD void keep_largest(int64_t at, int place, C (&best)[kWide],
                                int (&places)[kWide]) const {
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
                         const int (&places)[kWide]) const {
    int64_t chosen[kWide];
    for (int i = 0; i < kWide; ++i) chosen[i] = places[i] < 0 ? 0 : places[i];
    int64_t* to = index + offset(index_strides, at);
    if constexpr (kWide == kPack) {
      store_pack(y.data, y.dtype, offset(y_strides, at), best);
      store_together(to, chosen);
    } else {
      y.put<C>(offset(y_strides, at), best[0]);
      to[0] = chosen[0];
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

template <class C, int kWide>
void max_pool_part(const View& x, const WindowOptions& options, const View& y, const View& index,
                   Queue& queue) {
  MaxPoolBody<C, kWide> body;
  body.x = Operand(x);
  body.y = Operand(y);
  body.index = index.as<int64_t>();
  body.x_strides = PoolStrides(x);
  body.y_strides = PoolStrides(y);
  body.index_strides = PoolStrides(index);
  body.channels = Divisor(static_cast<uint32_t>(y.shape[1] / kWide));
  body.channels_last = y.strides[1] == 1;
  for (int d = 0; d < kSpatial; ++d) {
    const int of_view = d + y.rank - kSpatial, of_window = d + options.spatial - kSpatial;
    const bool present = of_window >= 0;
    const auto value = [&](const int64_t* values, int64_t absent) {
      return static_cast<int>(present ? values[of_window] : absent);
    };
    body.size[d] = Divisor(static_cast<uint32_t>(present ? y.shape[of_view] : 1));
    body.x_size[d] = static_cast<int>(present ? x.shape[of_view] : 1);
    body.kernel[d] = value(options.kernel, 1);
    body.stride[d] = value(options.stride, 1);
    body.padding[d] = value(options.padding, 0);
    body.dilation[d] = value(options.dilation, 1);
  }
  launch_elements(body, y.elements() / kWide, queue);
}

}  // namespace

void max_pool(const View& x, const WindowOptions& options, const View& y, const View& index,
              Queue& queue) {
  if (y.elements() == 0) return;
  if (y.elements() >= kMostElements && y.shape[0] > 1) {
    const int64_t half = y.shape[0] / 2, rest = y.shape[0] - half;
    max_pool(narrowed(x, 0, 0, half), options, narrowed(y, 0, 0, half), narrowed(index, 0, 0, half),
             queue);
    return max_pool(narrowed(x, 0, half, rest), options, narrowed(y, 0, half, rest),
                    narrowed(index, 0, half, rest), queue);
  }
  if (y.dtype == DType::f64) return max_pool_part<double, 1>(x, options, y, index, queue);
  if (has_channel_packs(x) && has_channel_packs(y) && has_channel_packs(index)) {
    return max_pool_part<float, kPack>(x, options, y, index, queue);
  }
  max_pool_part<float, 1>(x, options, y, index, queue);
}

}  // namespace lockstep::cuda
