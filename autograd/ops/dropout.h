#pragma once

#include "lockstep/autograd/tensor.h"

namespace lockstep {

// Zeroes elements with probability p in [0, 1] and scales the rest by 1/(1-p); x itself when not
// training. The mask is a function of the context's random key (seed, step, op) and the global
// index of each sample of dimension 0.
Tensor dropout(const Tensor& x, double p, bool training = true);

}  // namespace lockstep
