#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "lockstep/runtime/files/manifest.h"

namespace lockstep::files::internal {

inline constexpr const char* kManifestName = "manifest.json";

// Where a checkpoint lies until it is committed.
std::filesystem::path partial_directory(const std::filesystem::path& directory);
// Where the checkpoint that a commit replaces lies for a moment.
std::filesystem::path replaced_directory(const std::filesystem::path& directory);

// What an entry beside checkpoints is.
enum class EntryKind { checkpoint, partial, replaced };
struct Entry {
  EntryKind kind;
  int64_t step;
};
// Nothing for a name that is none of ours.
std::optional<Entry> parse_entry(std::string_view name);

// "shard-00000-of-00002.safetensors"
std::string shard_name(int rank, int world_size);
// The name of a slice in its shard: the tensor's, with the range where it is not all of it.
std::string slice_name(const TensorSpec& tensor, int64_t begin, int64_t end);

}  // namespace lockstep::files::internal
