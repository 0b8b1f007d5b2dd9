#pragma once

#include "lockstep/runtime/array.h"

namespace lockstep::conformance {

// The same values in memory of their own, row-major.
Array dense_copy(const Array& array);
// The same values with their dimensions in memory the other way round, every second element, away
// from the start: nothing that ops may take for contiguous.
Array strided_copy(const Array& array);

}  // namespace lockstep::conformance
