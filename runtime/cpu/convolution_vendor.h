#pragma once

#include "lockstep/runtime/cpu/convolution_geometry.h"
#include "lockstep/runtime/cpu/loops.h"

namespace lockstep::cpu {

// The pass by oneDNN, or false where it has none that is better than our own: f32, and bf16 where
// the processor multiplies that. Operands have elements, and windows that do not overlap
// themselves.
bool convolve_by_library(const Loops& loops, ConvolutionPass pass, const Convolution& c);

}  // namespace lockstep::cpu
