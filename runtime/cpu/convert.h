#pragma once

#include <cstdint>

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/dtype.h"

namespace lockstep::cpu {

// n values from one dtype to another, as C++ converts (to bool: != 0); floats out of an integer
// type's range go to its nearest value and NaN to 0. Strides are in elements; a stride of 0 reads
// one value n times.
void convert(const Loops& loops, const void* from, DType from_dtype, int64_t from_stride, void* to,
             DType to_dtype, int64_t to_stride, int64_t n);

}  // namespace lockstep::cpu
