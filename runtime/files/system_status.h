#pragma once

#include <filesystem>
#include <string_view>

#include "absl/status/status.h"

namespace lockstep::files {

// "cannot DO PATH: No space left on device (the disk is full)" for an errno value.
absl::Status system_status(int error, std::string_view doing, const std::filesystem::path& path);

// `status` with "PREFIX: " before its message; an OK stays OK.
absl::Status annotate(const absl::Status& status, std::string_view prefix);

}  // namespace lockstep::files
