#pragma once

#include <cstdint>

#include "lockstep/runtime/kernels.h"
#include "lockstep/runtime/view.h"

namespace lockstep::cpu {

enum class ConvolutionPass { forward, input_gradient, weight_gradient };

// A convolution over three spatial dimensions; those that were not given have size 1.
struct ConvolutionGeometry {
  int64_t batch, in, out, groups;
  int64_t x[3], y[3], kernel[3], stride[3], padding[3], dilation[3];

  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  int64_t pixels() const { return y[0] * y[1] * y[2]; }  // of the output of one image
  int64_t patch() const { return in / groups * taps(); }
  int64_t multiplications() const { return batch * pixels() * out * patch(); }
  bool operator==(const ConvolutionGeometry&) const = default;
};

// The operands of any of the three passes, each [batch or out, channels, depth, height, width].
struct Convolution {
  ConvolutionGeometry geometry;
  View x, w, y;
  double beta = 0;  // of a gradient

  const View& result(ConvolutionPass pass) const {
    if (pass == ConvolutionPass::forward) return y;
    return pass == ConvolutionPass::input_gradient ? x : w;
  }
};

}  // namespace lockstep::cpu
