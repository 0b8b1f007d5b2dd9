#include <algorithm>
#include <map>

#include "lockstep/runtime/files/checkpoint.h"
#include "lockstep/runtime/files/checkpoint_paths.h"
#include "lockstep/runtime/files/system_status.h"

namespace lockstep::files {
namespace {

namespace fs = std::filesystem;
using internal::EntryKind;

// Hashed twice, for its slice and for the file, and copied while it is in the processor's cache.
constexpr size_t kPieceBytes = size_t{1} << 20;

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

// Of the file: the values, and where their checksum goes.
struct Entry : TensorSpec {
  const Slice* slice = nullptr;
  size_t record = 0;
  size_t slice_record = 0;
};

struct Shard {
  std::vector<Entry> entries;
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
    Entry& entry = shard.entries.emplace_back();
    entry.name = internal::slice_name(record, slice.begin, slice.end);
    entry.dtype = slice.dtype;
    entry.shape =
        entry.name == slice.name ? slice.full_shape : std::vector<int64_t>{slice.end - slice.begin};
    entry.slice = &slice;
    entry.record = place->second;
    entry.slice_record = record.slices.size();
    record.slices.push_back({.begin = slice.begin, .end = slice.end});
  }
  return shard;
}

// In the order of the file. Fills in the checksums of slices.
absl::Status write_values(SafetensorsWriter& writer, Shard& shard, const std::stop_token& stop) {
  std::map<std::string_view, const Entry*> by_name;
  for (const Entry& entry : shard.entries) by_name.emplace(entry.name, &entry);
  std::vector<std::byte> copied(kPieceBytes);
  for (const TensorSpec& tensor : writer.tensors()) {
    const Entry& entry = *by_name.at(tensor.name);
    const Slice& slice = *entry.slice;
    Hasher hasher;
    for (size_t at = 0; at < slice.bytes(); at += kPieceBytes) {
      if (stop.stop_requested()) return absl::CancelledError("the checkpoint is given up");
      const size_t count = std::min(kPieceBytes, slice.bytes() - at);
      if (slice.copy) slice.copy(at, count, copied.data());
      const std::byte* data =
          slice.copy ? copied.data() : static_cast<const std::byte*>(slice.data) + at;
      hasher.update({data, count});
      if (const absl::Status status = writer.append({data, count}); !status.ok()) return status;
    }
    shard.records[entry.record].slices[entry.slice_record].checksum = hasher.digest();
  }
  return absl::OkStatus();
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
                                        int rank, int world_size, std::span<const Slice> slices,
                                        std::stop_token stop) {
  auto shard = lay_out(slices);
  if (!shard.ok()) return shard.status();
  const std::string name = internal::shard_name(rank, world_size);
  const fs::path path = internal::partial_directory(directory) / name;
  auto writer = SafetensorsWriter::create(
      file_system, path, std::vector<TensorSpec>(shard->entries.begin(), shard->entries.end()),
      {{"format", "lockstep-checkpoint-shard"}});
  if (!writer.ok()) return writer.status();
  const absl::Status status = write_values(*writer, *shard, stop);
  if (!status.ok()) return status;
  const auto written = writer->finish();
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
