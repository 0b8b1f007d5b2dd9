#pragma once

#include "lockstep/runtime/array.h"
#include "lockstep/runtime/ops/into.h"

// Array-level ops on [batch, channels, …]; what is one value a channel is [channels] in the
// statistics' dtype (ops/rows.h), contiguous.
namespace lockstep::kernels {

// Mean and biased variance over all but the channels.
struct ChannelMoments {
  Array mean;
  Array variance;
};
ChannelMoments channel_moments(const Array& x);

// What normalizes a channel: inverse = 1 / sqrt(variance + epsilon), scale = inverse * weight and
// shift = bias - mean * scale.
struct ChannelScaling {
  Array inverse;
  Array scale;
  Array shift;
};
// Moved by `momentum` towards the mean and `unbiased` times the variance; either may be empty. Any
// floating dtype.
struct RunningMoments {
  Array mean = {};
  Array variance = {};
  double momentum = 0;
  double unbiased = 1;
};
// weight and bias: of any floating dtype, or empty.
ChannelScaling channel_norm(const ChannelMoments& moments, const Array& weight, const Array& bias,
                            double epsilon, const RunningMoments& running = {});

// x * scale + shift + residual, or max(0, that) with `relu`, in x's dtype and, where x is
// channels-last, its layout. residual, of x's shape and dtype, may be empty.
Array channel_affine(const Array& x, const Array& scale, const Array& shift,
                     const Array& residual = {}, bool relu = false);

// Where a ReLU's gradient goes on: not where x * scale + shift, or its output, is zero or less.
// Empty: everywhere.
struct ReluGate {
  Array scale = {};
  Array shift = {};
  Array output = {};
};

// The sums of g and of g * (x - mean), where g is what the gate lets through of dy; g itself where
// the gate has an output, else empty.
struct ChannelSums {
  Array dy;
  Array products;
  Array gated = {};
};
// `into`: where the sum of g may go, [channels] in the statistics' dtype.
ChannelSums channel_gradient_sums(const Array& dy, const Array& x, const Array& mean,
                                  const ReluGate& gate = {}, const Into& into = {});

// What the gradient of x has through the statistics: x * slope + shift.
struct ChannelSlope {
  Array slope;
  Array shift;
};
// Of the sums over 1 / share values. `dweight`, of any floating dtype, is written where it is not
// empty.
ChannelSlope channel_norm_backward(const Array& mean, const ChannelScaling& scaling,
                                   const ChannelSums& sums, double share,
                                   const Array& dweight = {});

// g * scale + x * slope + shift, g as above; without a slope, g * scale. The gate has no output.
Array channel_input_gradient(const Array& dy, const Array& x, const Array& scale,
                             const ReluGate& gate = {}, const ChannelSlope& through = {});

}  // namespace lockstep::kernels
