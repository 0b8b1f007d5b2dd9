#pragma once

#include "lockstep/runtime/cpu/convolution_geometry.h"
#include "lockstep/runtime/cpu/loops.h"

namespace lockstep::cpu {

// A convolution of single pixels is a matrix product for each image. Returns false for others, and
// where pixels or channels do not lie as a matrix; f32 images that lie channels-last are left to
// the library, which is faster there. Operands have elements.
bool convolve_pointwise(const Loops& loops, ConvolutionPass pass, const Convolution& c);

}  // namespace lockstep::cpu
