#pragma once

#include <cstdint>
#include <span>

#include "lockstep/collectives/communicator.h"
#include "lockstep/runtime/dtype.h"

namespace lockstep {

// Arithmetic of collectives on host memory. bool is no number here; the caller has checked that.

// outputs[*][i] = the reduction over r of inputs[r][i], in the order of r. 16-bit floats are
// combined in float and rounded once. mean is the sum times 1/inputs.size(). An output may be one
// of the inputs.
void reduce_in_order(ReduceOp reduction, DType dtype, std::span<const void* const> inputs,
                     std::span<void* const> outputs, int64_t elements);

// values[i] *= factor, for floating dtypes.
void scale(DType dtype, void* values, int64_t elements, double factor);

}  // namespace lockstep
