#include <map>

#include "lockstep/runtime/files/checkpoint.h"
#include "lockstep/runtime/files/checkpoint_paths.h"
#include "lockstep/runtime/files/system_status.h"

namespace lockstep::files {
namespace {

namespace fs = std::filesystem;
using internal::EntryKind;

fs::path parent_of(const fs::path& directory) {
  const fs::path parent = internal::partial_directory(directory).parent_path();
  return parent.empty() ? fs::path(".") : parent;
}

// A commit that was killed between its two renames left the old checkpoint under another name.
absl::Status clear_unfinished(FileSystem& file_system, const fs::path& checkpoints) {
  const auto names = file_system.list(checkpoints);
  if (!names.ok()) return names.status();
  for (const std::string& name : *names) {
    const auto entry = internal::parse_entry(name);
    if (!entry || entry->kind == EntryKind::checkpoint) continue;
    const fs::path plain = checkpoints / checkpoint_name(entry->step);
    const bool restore = entry->kind == EntryKind::replaced && !file_system.exists(plain);
    const absl::Status status = restore ? file_system.rename(checkpoints / name, plain)
                                        : file_system.remove_tree(checkpoints / name);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status check_slice(const Slice& slice) {
  const TensorSpec tensor{slice.name, slice.dtype, slice.full_shape};
  if (slice.begin >= 0 && slice.begin <= slice.end && slice.end <= tensor.elements()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError("tensor '" + slice.name + "': elements [" +
                                    std::to_string(slice.begin) + ", " + std::to_string(slice.end) +
                                    ") of " + std::to_string(tensor.elements()));
}

struct Shard {
  std::vector<TensorData> entries;  // of the file
  std::vector<TensorRecord> records;
};

absl::StatusOr<Shard> lay_out(std::span<const Slice> slices) {
  Shard shard;
  std::map<std::string_view, size_t> places;
  for (const Slice& slice : slices) {
    if (const absl::Status status = check_slice(slice); !status.ok()) return status;
    const auto [place, added] = places.try_emplace(slice.name, shard.records.size());
    if (added) {
      static_cast<TensorSpec&>(shard.records.emplace_back()) = {slice.name, slice.dtype,
                                                                slice.full_shape};
    }
    TensorRecord& record = shard.records[place->second];
    if (record.dtype != slice.dtype || record.shape != slice.full_shape) {
      return absl::InvalidArgumentError("tensor '" + slice.name +
                                        "' has slices of different dtype or shape");
    }
    if (slice.begin == slice.end) continue;
    TensorData entry;
    entry.name = internal::slice_name(record, slice.begin, slice.end);
    entry.dtype = slice.dtype;
    entry.shape =
        entry.name == slice.name ? slice.full_shape : std::vector<int64_t>{slice.end - slice.begin};
    entry.data = slice.data;
    const std::span bytes(static_cast<const std::byte*>(slice.data), entry.bytes());
    record.slices.push_back({0, slice.begin, slice.end, checksum_of(bytes)});
    shard.entries.push_back(std::move(entry));
  }
  return shard;
}

}  // namespace

absl::Status begin_checkpoint(FileSystem& file_system, const fs::path& directory) {
  const fs::path checkpoints = parent_of(directory);
  absl::Status status = file_system.create_directories(checkpoints);
  if (status.ok()) status = clear_unfinished(file_system, checkpoints);
  if (!status.ok()) return status;
  return file_system.create_directories(internal::partial_directory(directory));
}

absl::StatusOr<ShardRecord> write_shard(FileSystem& file_system, const fs::path& directory,
                                        int rank, int world_size, std::span<const Slice> slices) {
  auto shard = lay_out(slices);
  if (!shard.ok()) return shard.status();
  const std::string name = internal::shard_name(rank, world_size);
  const fs::path path = internal::partial_directory(directory) / name;
  const auto written = write_safetensors(file_system, path, shard->entries,
                                         {{"format", "lockstep-checkpoint-shard"}});
  if (!written.ok()) return written.status();
  return ShardRecord{{name, written->bytes, written->checksum}, std::move(shard->records)};
}

absl::Status commit_checkpoint(FileSystem& file_system, const fs::path& directory,
                               const Manifest& manifest) {
  const fs::path partial = internal::partial_directory(directory);
  const fs::path replaced = internal::replaced_directory(directory);
  for (const FileRecord& file : manifest.files) {
    if (!file_system.exists(partial / file.name)) {
      return absl::NotFoundError((partial / file.name).string() + " was not written");
    }
  }
  absl::Status status =
      write_file_atomically(file_system, partial / internal::kManifestName, manifest.to_json());
  if (!status.ok()) return status;

  const bool replaces = file_system.exists(directory);
  if (replaces) {
    status = file_system.remove_tree(replaced);
    if (status.ok()) status = file_system.rename(directory, replaced);
    if (!status.ok()) return status;
  }
  status = file_system.rename(partial, directory);
  if (!status.ok()) {
    if (replaces) file_system.rename(replaced, directory).IgnoreError();
    return status;
  }
  status = file_system.sync_directory(parent_of(directory));
  // The checkpoint stands; what cannot be cleared away now, the next one clears.
  if (status.ok() && replaces) file_system.remove_tree(replaced).IgnoreError();
  return status;
}

}  // namespace lockstep::files
