#pragma once

#include <cstdint>
#include <vector>

#include "lockstep/runtime/cpu/convolution_geometry.h"

namespace lockstep::cpu {

// The window [start, start + length) of one dimension.
View cut(const View& view, int dim, int64_t start, int64_t length);

// About `wanted` convolutions that make up `c` (a weight gradient is their sum): runs of images or,
// where there are fewer images than that, bands of rows (`row`: which spatial dimension) of each.
// A function of the shape alone, so that results do not depend on the number of threads.
std::vector<Convolution> parts_of(ConvolutionPass pass, const Convolution& c, int row,
                                  int64_t wanted);

}  // namespace lockstep::cpu
