#pragma once

#include "lockstep/runtime/array.h"

// Array-level ops on [batch, channels, …]; what is one value a channel is [channels] in the
// statistics' dtype (ops/rows.h), contiguous.
namespace lockstep::kernels {

// Mean and biased variance over all but the channels.
struct ChannelMoments {
  Array mean;
  Array variance;
};
ChannelMoments channel_moments(const Array& x);

// x * scale + shift + dy * dy_scale in x's dtype and, where x is channels-last, its layout. dy and
// its scale may be empty.
Array channel_affine(const Array& x, const Array& scale, const Array& shift, const Array& dy = {},
                     const Array& dy_scale = {});

// The sums of dy and of dy * (x - mean).
struct ChannelSums {
  Array dy;
  Array products;
};
ChannelSums channel_gradient_sums(const Array& dy, const Array& x, const Array& mean);

}  // namespace lockstep::kernels
