#pragma once

#include <vector>

#include "lockstep/autograd/autocast.h"
#include "lockstep/nn/parameter.h"

namespace lockstep::nn {

// Flat 16-bit copies of f32 parameters, which an Autocast scope reads instead of converting each
// parameter wherever it is used:
//
//   nn::HalfCopy half(model.parameters());
//   for (…) {
//     const Autocast autocast(half);
//     loss = …;
//   }
//
// One copy for each memory that parameters lie in: of those of data parallelism one for all, of
// sharded ones one a bucket. Where parameters themselves are sharded, give it to
// DataParallelOptions::copies, or each rank will keep the whole model in 16 bits.
// Converted again at the first use after the values have changed, unless the optimizer that changes
// them writes it as well (Optimizer::set_copies).
// Gradients flow to the f32 parameters. Parameters that are seated elsewhere later move over by
// themselves. Must outlive the scopes that use it.
class HalfCopy : public LowPrecisionCopies {
 public:
  // The parameters are placed; those that are not f32 are left out.
  explicit HalfCopy(const std::vector<Parameter>& parameters, DType dtype = DType::bf16);
};

}  // namespace lockstep::nn
