#pragma once

#include <string>
#include <vector>

#include "conformance/case.h"

namespace lockstep::conformance {

// What is wrong with one case, one line each.
using Failures = std::vector<std::string>;

// Notes where `found` differs from the recorded `expected` in dtype, shape or value, the first
// element that does. An empty `found` stands for zeros.
void compare(const Case& recorded, const std::string& tensor, const Array& found,
             const Array& expected, Failures& failures);

}  // namespace lockstep::conformance
