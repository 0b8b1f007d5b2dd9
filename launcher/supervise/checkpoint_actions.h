#pragma once

#include <filesystem>
#include <iosfwd>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lockstep/runtime/files/checkpoint.h"

namespace lockstep::supervise {

// The checkpoint that a path means: itself, or the newest of those in it (or in its checkpoints/).
// Newer ones that are damaged are mentioned on `error`.
absl::StatusOr<std::filesystem::path> choose_checkpoint(const std::filesystem::path& path,
                                                        std::ostream& error);
// The directory that holds the checkpoints a path means.
std::filesystem::path checkpoints_of(const std::filesystem::path& path);

// A hash over names, dtypes, shapes and values of the tensors under model/, in the order of their
// names: the same however they were sharded.
absl::StatusOr<files::Checksum> hash_model(files::Checkpoint& checkpoint);

// Prints each tensor that differs, then one line on all. Returns whether every bit is the same.
absl::StatusOr<bool> diff_checkpoints(files::Checkpoint& a, files::Checkpoint& b,
                                      std::ostream& out);

// Writes the tensors under model/ by their own names.
absl::Status export_model(files::Checkpoint& checkpoint, const std::filesystem::path& to);

}  // namespace lockstep::supervise
