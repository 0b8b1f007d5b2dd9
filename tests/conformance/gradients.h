#pragma once

#include "conformance/case.h"
#include "conformance/compare.h"
#include "conformance/table.h"

namespace lockstep::conformance {

// Whether the case can be held against finite differences: an op in f64 with a cotangent, and all
// of its floating values finite.
bool has_checkable_gradients(const Case& recorded);

// The gradients of the case's op at the case's inputs, and the gradients of these, against central
// differences. Elements at a corner or a jump (the one-sided differences disagree) are left out:
// which side's slope is right there is for the recordings to say.
void check_gradients(const Case& recorded, const OpTable& table, Failures& failures);

}  // namespace lockstep::conformance
