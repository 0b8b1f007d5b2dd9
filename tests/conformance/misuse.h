#pragma once

#include <filesystem>
#include <functional>
#include <vector>

#include "conformance/case.h"
#include "conformance/compare.h"
#include "conformance/table.h"

namespace lockstep::conformance {

// Calls the case's op with its arguments made wrong one at a time: empty tensors, other ranks,
// sizes, dtypes and values, attributes out of range. Each call, and the backward pass of what it
// returns, has to throw Error or end; anything else is a failure. Runs in processes of its own, so
// that a crash tells what was called: this one must not have opened the device. Reports of each
// file, in order.
void check_misuse(const std::vector<std::filesystem::path>& files, const OpTable& table,
                  Device device, const std::function<void(size_t file, Failures)>& report);

}  // namespace lockstep::conformance
