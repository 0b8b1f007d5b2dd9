#pragma once

#include "conformance/case.h"
#include "conformance/compare.h"
#include "conformance/table.h"

namespace lockstep::conformance {

// Calls the case's op with its arguments made wrong one at a time: empty tensors, other ranks,
// sizes, dtypes and values, attributes out of range. Each call, and the backward pass of what it
// returns, has to throw Error or end; anything else is a failure. Runs in a process of its own, so
// that a crash tells what was called.
void check_misuse(const Case& recorded, const OpTable& table, Failures& failures);

}  // namespace lockstep::conformance
