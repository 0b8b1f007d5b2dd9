#include "lockstep/nn/half_copy.h"

namespace lockstep::nn {

HalfCopy::HalfCopy(const std::vector<Parameter>& parameters, DType dtype)
    : LowPrecisionCopies(dtype) {
  for (const Parameter& parameter : parameters) {
    if (parameter.dtype() == DType::f32) of(parameter.tensor().value());
  }
}

}  // namespace lockstep::nn
