#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "lockstep/runtime/files/safetensors.h"

namespace lockstep::files::internal {

struct HeaderTensor : TensorSpec {
  int64_t begin = 0;  // bytes from the start of the values
  int64_t end = 0;
};

struct Header {
  std::vector<HeaderTensor> tensors;  // in the header's order
  Metadata metadata;
};

// Parses the JSON part without building a document, so that a hostile header costs no more memory
// than its own size: form, names, dtypes, and that each tensor's bytes are as many as its shape
// says. How the tensors lie in the file is the caller's to check.
absl::StatusOr<Header> parse_header(std::string_view json);

}  // namespace lockstep::files::internal
