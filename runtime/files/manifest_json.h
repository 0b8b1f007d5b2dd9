#pragma once

#include <string_view>

#include "absl/status/status.h"
#include "lockstep/runtime/files/manifest.h"

namespace lockstep::files::internal {

// Files and tensors are named once, and slices cover every tensor once within their files.
absl::Status check_manifest(const Manifest& manifest);

// Whether `text` is one JSON object.
bool is_json_object(std::string_view text);

}  // namespace lockstep::files::internal
