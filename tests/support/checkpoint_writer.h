#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "lockstep/runtime/files/checkpoint.h"

namespace lockstep::testing {

// A tensor of floats, in whole.
struct FloatTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> values;
};

// Writes a checkpoint as a world of that many ranks would: each has an equal run of each tensor.
inline absl::Status write_checkpoint(files::FileSystem& file_system,
                                     const std::filesystem::path& directory, int64_t step,
                                     int world_size, const std::vector<FloatTensor>& tensors,
                                     const std::string& attributes = "{}") {
  absl::Status status = files::begin_checkpoint(file_system, directory);
  if (!status.ok()) return status;
  std::vector<files::ShardRecord> records;
  for (int rank = 0; rank < world_size; ++rank) {
    std::vector<files::Slice> slices;
    for (const FloatTensor& tensor : tensors) {
      const auto count = static_cast<int64_t>(tensor.values.size());
      const int64_t begin = count * rank / world_size;
      slices.push_back({tensor.name, DType::f32, tensor.shape, begin,
                        count * (rank + 1) / world_size, tensor.values.data() + begin});
    }
    const auto shard = files::write_shard(file_system, directory, rank, world_size, slices);
    if (!shard.ok()) return shard.status();
    const auto received = files::ShardRecord::from_json(shard->to_json());
    if (!received.ok()) return received.status();
    records.push_back(*received);
  }
  const auto manifest = files::assemble(step, records, attributes);
  if (!manifest.ok()) return manifest.status();
  return files::commit_checkpoint(file_system, directory, *manifest);
}

}  // namespace lockstep::testing
