#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lockstep/runtime/dtype.h"
#include "lockstep/runtime/files/checksum.h"
#include "lockstep/runtime/files/safetensors.h"

namespace lockstep::files {

// Where a run of a tensor's elements (row-major, [begin, end)) lies.
struct SliceRecord {
  int file = 0;  // index in Manifest::files
  int64_t begin = 0;
  int64_t end = 0;
  Checksum checksum;  // of the slice's bytes
};

struct TensorRecord : TensorSpec {
  std::vector<SliceRecord> slices;  // in order, covering each element once
};

struct FileRecord {
  std::string name;
  int64_t bytes = 0;
  Checksum checksum;
};

// What one rank wrote: crosses to rank 0 as text.
struct ShardRecord {
  FileRecord file;
  std::vector<TensorRecord> tensors;  // this shard's slices; their `file` is 0

  std::string to_json() const;
  static absl::StatusOr<ShardRecord> from_json(std::string_view text);
};

// The contents of a checkpoint.
struct Manifest {
  static constexpr int kFormatVersion = 1;

  int64_t step = 0;
  int world_size = 1;
  std::vector<TensorRecord> tensors;  // by name
  std::vector<FileRecord> files;
  std::string attributes = "{}";  // a JSON object: data position, generator state, flags, versions

  // Null when there is none.
  const TensorRecord* find(std::string_view name) const;

  // The bytes of manifest.json; the last member is the checksum of the bytes before it.
  std::string to_json() const;
  // Everything checked: checksum, version, types, and that the slices cover each tensor once and
  // fit their files.
  static absl::StatusOr<Manifest> from_json(std::string_view text);
};

// Joins what the ranks wrote. Fails where ranks disagree on a tensor, or where the slices leave
// elements out or hold them twice: the error names tensor, elements and files.
absl::StatusOr<Manifest> assemble(int64_t step, std::span<const ShardRecord> shards,
                                  std::string attributes);

}  // namespace lockstep::files
