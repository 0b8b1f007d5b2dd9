#pragma once

#include <initializer_list>

#include "lockstep/runtime/array.h"

namespace lockstep::kernels {

// Elementwise results keep the memory order of channels-last images; all others are row-major.
// `operands` that are empty or of another shape have no say.
Array empty_elementwise(std::initializer_list<const Array*> operands, const Shape& shape,
                        DType dtype, Device device);

// Whether the arrays (empty ones excepted) have one shape and one channels-last layout: then their
// memory is one run for all of them, and `run_of` sees it so.
bool same_channels_last(std::initializer_list<const Array*> arrays);
View run_of(const Array& x);

}  // namespace lockstep::kernels
