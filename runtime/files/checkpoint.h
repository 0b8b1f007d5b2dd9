#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lockstep/runtime/files/file_system.h"
#include "lockstep/runtime/files/manifest.h"
#include "lockstep/runtime/files/safetensors.h"

namespace lockstep::files {

// A checkpoint is a directory, checkpoints/step-00000100, with a safetensors file of each rank
// and a manifest. Tensors are named "model/NAME", "optimizer/exp_avg/NAME", …; each is cut into
// slices that lie in one file each, whatever the world size. Writing one:
//
//   rank 0:      begin_checkpoint(fs, directory)                  then a barrier
//   every rank:  record = write_shard(fs, directory, …)           then a gather of record.to_json()
//   rank 0:      commit_checkpoint(fs, directory, assemble(step, records, attributes))
//
// Until the commit everything lies in a hidden directory beside it: a run killed at any point
// leaves earlier checkpoints (one of the same step included) as they were.

// A run of elements [begin, end) of a tensor.
struct Slice {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> full_shape;
  int64_t begin = 0;
  int64_t end = 0;
  const void* data = nullptr;  // of element `begin`
  // Instead of `data`, where the values are not in the host's memory: copies `bytes` of them, from
  // byte `offset` on. May throw.
  std::function<void(size_t offset, size_t bytes, void* to)> copy = {};

  size_t bytes() const { return static_cast<size_t>(end - begin) * size_of(dtype); }
};

// "step-00000100"
std::string checkpoint_name(int64_t step);

// Makes the place to write to, and clears away what runs that were killed left unfinished. The
// checkpoints' directory must belong to this run alone (see FileSystem::lock).
absl::Status begin_checkpoint(FileSystem& file_system, const std::filesystem::path& directory);
// Returns when the file is durable. A rank may have no slices; a tensor several in one shard.
// Cancelled soon after `stop`, unless the file is whole by then; what was written is removed.
absl::StatusOr<ShardRecord> write_shard(FileSystem& file_system,
                                        const std::filesystem::path& directory, int rank,
                                        int world_size, std::span<const Slice> slices,
                                        std::stop_token stop = {});
absl::Status commit_checkpoint(FileSystem& file_system, const std::filesystem::path& directory,
                               const Manifest& manifest);

// A file of a checkpoint that is not as it was written.
struct Damage {
  std::string file;
  std::string problem;               // "is missing", "its checksum is …, expected …"
  std::vector<std::string> tensors;  // those with damaged values, where that can be told
};

// A checkpoint to read from, at any world size. Not thread-safe.
class Checkpoint {
 public:
  // Checks the manifest and that every file is there with its size. NotFound when the directory or
  // its manifest is missing, DataLoss when something is damaged.
  static absl::StatusOr<Checkpoint> open(const std::filesystem::path& directory);

  const std::filesystem::path& directory() const { return directory_; }
  const Manifest& manifest() const { return manifest_; }

  // Copies elements [begin, end) of a tensor to `out`. A file's checksum is compared before its
  // first value is used: DataLoss names file and tensors.
  absl::Status read(std::string_view name, int64_t begin, int64_t end, void* out);
  // Compares every checksum; an error where the manifest itself is damaged. Empty: all is well.
  static absl::StatusOr<std::vector<Damage>> verify(const std::filesystem::path& directory);

 private:
  Checkpoint(std::filesystem::path directory, Manifest manifest)
      : directory_(std::move(directory)), manifest_(std::move(manifest)) {}

  absl::StatusOr<const SafetensorsFile*> shard(int file);
  // The file when it is sound; else nothing, and `damage` says what ails it.
  std::optional<SafetensorsFile> inspect(int file, Damage& damage) const;

  std::filesystem::path directory_;
  Manifest manifest_;
  std::map<int, SafetensorsFile> shards_;  // those opened and found sound
};

struct CheckpointInfo {
  std::filesystem::path directory;
  int64_t step = 0;
  absl::Status status;  // of opening it
};

// The checkpoints in a directory, oldest first; damaged ones are listed with what ails them.
// Opening checks manifest and sizes, not the values. A directory that is missing has none.
absl::StatusOr<std::vector<CheckpointInfo>> list_checkpoints(
    const std::filesystem::path& checkpoints);
// The newest that opens; NotFound when there is none.
absl::StatusOr<std::filesystem::path> latest_checkpoint(const std::filesystem::path& checkpoints);
// Deletes all but the newest `keep` (at least 1) that open, and damaged ones older than the newest
// that opens. Returns what was deleted.
absl::StatusOr<std::vector<std::filesystem::path>> prune_checkpoints(
    FileSystem& file_system, const std::filesystem::path& checkpoints, int keep);

}  // namespace lockstep::files
