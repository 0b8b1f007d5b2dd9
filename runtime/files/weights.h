#pragma once

#include <filesystem>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lockstep/runtime/files/safetensors.h"

namespace lockstep::files {

// The tensors of one or several safetensors files as one set of names. Immutable.
class Weights {
 public:
  // By name.
  const std::vector<const TensorEntry*>& tensors() const { return tensors_; }
  // Null when there is none.
  const TensorEntry* find(std::string_view name) const;
  // The file that holds the tensor, which must be there.
  const std::filesystem::path& file_of(std::string_view name) const;
  const std::vector<SafetensorsFile>& files() const { return files_; }

 private:
  friend absl::StatusOr<Weights> open_weights(const std::filesystem::path& path);

  std::vector<SafetensorsFile> files_;
  std::vector<const TensorEntry*> tensors_;
};

// `path`: a .safetensors file, an index (model.safetensors.index.json), or a directory in Hugging
// Face's form, with model.safetensors or that index beside its shards. A shard that is missing, a
// tensor that is not where the index says, or one that is there twice is an error.
absl::StatusOr<Weights> open_weights(const std::filesystem::path& path);

}  // namespace lockstep::files
