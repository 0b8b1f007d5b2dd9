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

Array empty_like(const Array& of_channels) {
  return Array::empty(of_channels.shape(), of_channels.dtype(), of_channels.device());
}

// An uninitialised array of x's shape, channels-last where x is.
Array image_like(const Array& x) {
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

Array dense(const Array& x) { return x ? contiguous(x) : x; }

// What a kernel moves: the memory of `running` where that is dense, else a copy that goes back.
class Moved {
 public:
  explicit Moved(const Array& running) : running_(running), dense_(dense(running)) {}

  View view() const { return view_or_none(dense_); }
  void finish() const {
    if (!running_) return;
    if (dense_.data() != running_.data()) return copy_into(dense_, running_);
    running_.storage()->bump_version();
  }

 private:
  Array running_, dense_;
};

}  // namespace

ChannelMoments channel_moments(const Array& x) {
  const Operation operation("batch_norm");
  ChannelMoments result{of_channels(x), of_channels(x)};
  of(x).channel_moments(as_channels(x).view(), result.mean.view(), result.variance.view());
  return result;
}

ChannelScaling channel_norm(const ChannelMoments& moments, const Array& weight, const Array& bias,
                            double epsilon, const RunningMoments& running) {
  const Operation operation("batch_norm");
  const ChannelScaling result{empty_like(moments.mean), empty_like(moments.mean),
                              empty_like(moments.mean)};
  const Moved mean(running.mean), variance(running.variance);
  const Array gamma = dense(weight), beta = dense(bias);
  of(moments.mean)
      .channel_norm(moments.mean.view(), moments.variance.view(),
                    {.weight = view_or_none(gamma),
                     .bias = view_or_none(beta),
                     .inverse = result.inverse.view(),
                     .scale = result.scale.view(),
                     .shift = result.shift.view(),
                     .running_mean = mean.view(),
                     .running_variance = variance.view(),
                     .epsilon = epsilon,
                     .momentum = running.momentum,
                     .unbiased = running.unbiased});
  mean.finish();
  variance.finish();
  return result;
}

Array channel_affine(const Array& x, const Array& scale, const Array& shift, const Array& residual,
                     bool relu) {
  const Operation operation("batch_norm");
  const Array in = as_channels(x), added = residual ? as_channels(residual) : Array();
  const Array y = image_like(x);
  of(x).channel_affine(in.view(), scale.view(), shift.view(), view_or_none(added), relu,
                       as_channels(y).view());
  return y;
}

ChannelSums channel_gradient_sums(const Array& dy, const Array& x, const Array& mean,
                                  const ReluGate& gate, const Into& into) {
  const Operation operation("batch_norm backward");
  const bool kept = static_cast<bool>(gate.output);
  const Array output = kept ? as_channels(gate.output) : Array();
  const bool fits = into && into.destination.contiguous();
  ChannelSums sums{accept(fits ? into : Into(), mean.shape(), mean.dtype(), x.device()).destination,
                   empty_like(mean), kept ? image_like(x) : Array()};
  const Array gated = kept ? as_channels(sums.gated) : Array();
  of(x).channel_gradient_sums(
      as_channels(dy).view(), as_channels(x).view(), mean.view(),
      {view_or_none(gate.scale), view_or_none(gate.shift), view_or_none(output)},
      view_or_none(gated), sums.dy.view(), sums.products.view());
  return sums;
}

ChannelSlope channel_norm_backward(const Array& mean, const ChannelScaling& scaling,
                                   const ChannelSums& sums, double share, const Array& dweight) {
  const Operation operation("batch_norm backward");
  const ChannelSlope result{empty_like(mean), empty_like(mean)};
  const Array total = dense(sums.dy), products = dense(sums.products);
  of(mean).channel_norm_backward(mean.view(), scaling.inverse.view(), scaling.scale.view(),
                                 total.view(), products.view(), share, result.slope.view(),
                                 result.shift.view(), view_or_none(dweight));
  return result;
}

Array channel_input_gradient(const Array& dy, const Array& x, const Array& scale,
                             const ReluGate& gate, const ChannelSlope& through) {
  const Operation operation("batch_norm backward");
  const Array dx = image_like(x);
  of(x).channel_input_gradient(as_channels(dy).view(), as_channels(x).view(), scale.view(),
                               {view_or_none(gate.scale), view_or_none(gate.shift)},
                               view_or_none(through.slope), view_or_none(through.shift),
                               as_channels(dx).view());
  return dx;
}

}  // namespace lockstep::kernels
