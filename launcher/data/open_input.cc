#include "lockstep/launcher/data/open_input.h"

#include <utility>

#include "lockstep/runtime/error.h"

namespace lockstep::data {

files::MappedFile open_input(const std::filesystem::path& path) {
  auto file = files::MappedFile::open(path);
  if (file.ok()) return *std::move(file);
  const std::string message(file.status().message());
  switch (file.status().code()) {
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kPermissionDenied: throw UsageError(message);
    default: throw Error(message);
  }
}

}  // namespace lockstep::data
