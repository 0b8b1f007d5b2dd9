#include "lockstep/runtime/ops/channels.h"

#include "lockstep/runtime/context.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "lockstep/runtime/ops/rows.h"

namespace lockstep::kernels {
namespace {

// [batch, channels, inner], a window where there is one.
Array as_channels(const Array& x) {
  LOCKSTEP_CHECK(x.rank() >= 2, "an op on channels: shape ", x.shape(),
                 ", expected [batch, channels, …]");
  int64_t inner = 1;
  for (int i = 2; i < x.rank(); ++i) inner *= x.dim(i);
  return x.reshape({x.dim(0), x.dim(1), inner});
}

Array of_channels(const Array& x) {
  return Array::empty({x.dim(1)}, statistics_dtype(x.dtype()), x.device());
}

// An uninitialised array of x's shape, channels-last where x is.
Array empty_like(const Array& x) {
  Shape memory{x.dim(0)};
  for (int i = 2; i < x.rank(); ++i) memory.append(x.dim(i));
  memory.append(x.dim(1));
  const Shape dense = contiguous_strides(memory);
  std::vector<int> order{0, x.rank() - 1};  // from memory's dimensions to x's
  for (int i = 2; i < x.rank(); ++i) order.push_back(i - 1);
  bool channels_last = !x.contiguous();
  for (int i = 0; i < x.rank(); ++i) channels_last &= x.strides()[i] == dense[order[i]];
  if (!channels_last) return Array::empty(x.shape(), x.dtype(), x.device());
  return Array::empty(memory, x.dtype(), x.device()).permute(order);
}

View view_or_none(const Array& x) { return x ? x.view() : View(); }

}  // namespace

ChannelMoments channel_moments(const Array& x) {
  const Operation operation("batch_norm");
  ChannelMoments result{of_channels(x), of_channels(x)};
  of(x).channel_moments(as_channels(x).view(), result.mean.view(), result.variance.view());
  return result;
}

Array channel_affine(const Array& x, const Array& scale, const Array& shift, const Array& dy,
                     const Array& dy_scale) {
  const Operation operation("batch_norm");
  const Array in = as_channels(x), upstream = dy ? as_channels(dy) : Array();
  const Array y = empty_like(x);
  of(x).channel_affine(in.view(), scale.view(), shift.view(), view_or_none(upstream),
                       view_or_none(dy_scale), as_channels(y).view());
  return y;
}

ChannelSums channel_gradient_sums(const Array& dy, const Array& x, const Array& mean) {
  const Operation operation("batch_norm backward");
  ChannelSums sums{of_channels(x), of_channels(x)};
  of(x).channel_gradient_sums(as_channels(dy).view(), as_channels(x).view(), mean.view(),
                              sums.dy.view(), sums.products.view());
  return sums;
}

}  // namespace lockstep::kernels
