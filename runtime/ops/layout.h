#pragma once

#include <initializer_list>

#include "lockstep/runtime/array.h"

namespace lockstep::kernels {

// Elementwise results keep the memory order of channels-last images; all others are row-major.
// `operands` that are empty or of another shape have no say.
Array empty_elementwise(std::initializer_list<const Array*> operands, const Shape& shape,
                        DType dtype, Device device);

// A result of matrix products. On a GPU the rows of f32 and 16-bit ones begin on boundaries of 128
// bytes, with memory that nobody reads between them, unless they are short or on boundaries of 16
// already: products of unaligned rows are slow there. Not contiguous then; a reshape that keeps
// the rows is still a window.
Array empty_rows(const Shape& shape, DType dtype, Device device);
// Whether x is a whole array that lies as empty_rows() pads it, in any shape that keeps the rows.
bool has_padded_rows(const Array& x);

// Whether [rows, width] has dense rows that do not overlap: kernels may write there.
bool has_separate_rows(const Array& x);

// Whether the arrays (empty ones excepted) have one shape and one channels-last layout: then their
// memory is one run for all of them, and `run_of` sees it so.
bool same_channels_last(std::initializer_list<const Array*> arrays);
View run_of(const Array& x);

}  // namespace lockstep::kernels
