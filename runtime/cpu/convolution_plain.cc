// The convolutions of builds under ThreadSanitizer, which cannot look into oneDNN.
#include "lockstep/runtime/cpu/convolution_vendor.h"

namespace lockstep::cpu {

bool convolve_by_library(const Loops&, ConvolutionPass, const Convolution&) { return false; }

}  // namespace lockstep::cpu
