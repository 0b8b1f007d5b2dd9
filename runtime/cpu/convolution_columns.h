#pragma once

#include "lockstep/runtime/cpu/convolution_geometry.h"
#include "lockstep/runtime/cpu/loops.h"

namespace lockstep::cpu {

// Convolution as matrix products with patches gathered into rows, block by block, so that the
// working memory is small: for what the library does not do. Operands of type T (float or double)
// with any strides, none without elements.
template <class T>
void convolve_by_columns(const Loops& loops, ConvolutionPass pass, const Convolution& c);

}  // namespace lockstep::cpu
