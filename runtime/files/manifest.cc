#include "lockstep/runtime/files/manifest.h"

#include <algorithm>
#include <limits>
#include <map>

#include "lockstep/runtime/files/manifest_json.h"

namespace lockstep::files {
namespace {

std::string range(int64_t begin, int64_t end) {
  return "elements [" + std::to_string(begin) + ", " + std::to_string(end) + ")";
}

absl::Status check_tensor(const TensorRecord& tensor, std::span<const FileRecord> files) {
  const auto invalid = [&](const std::string& problem) {
    return absl::InvalidArgumentError("tensor '" + tensor.name + "': " + problem);
  };
  int64_t bytes = static_cast<int64_t>(size_of(tensor.dtype));
  for (const int64_t dim : tensor.shape) {
    if (dim < 0 || __builtin_mul_overflow(bytes, dim, &bytes)) return invalid("impossible shape");
  }
  int64_t end = 0;
  const SliceRecord* previous = nullptr;
  for (const SliceRecord& slice : tensor.slices) {
    if (slice.file < 0 || static_cast<size_t>(slice.file) >= files.size()) {
      return invalid("a slice lies in file " + std::to_string(slice.file) + " of " +
                     std::to_string(files.size()));
    }
    if (slice.begin >= slice.end || slice.begin < 0 || slice.end > tensor.elements()) {
      return invalid(range(slice.begin, slice.end) + " of " + std::to_string(tensor.elements()));
    }
    if (slice.begin > end) return invalid(range(end, slice.begin) + " are in no file");
    if (slice.begin < end) {
      return invalid(range(slice.begin, std::min(end, slice.end)) + " are both in " +
                     files[previous->file].name + " and in " + files[slice.file].name);
    }
    end = slice.end;
    previous = &slice;
  }
  if (end == tensor.elements()) return absl::OkStatus();
  return invalid(range(end, tensor.elements()) + " are in no file");
}

// Slices are inside their files, so that nobody allocates for values that are not there.
absl::Status check_room(const Manifest& manifest) {
  std::vector<int64_t> room;
  for (const FileRecord& file : manifest.files) room.push_back(file.bytes);
  for (const TensorRecord& tensor : manifest.tensors) {
    for (const SliceRecord& slice : tensor.slices) {
      const auto item = static_cast<int64_t>(size_of(tensor.dtype));
      if ((room[slice.file] -= (slice.end - slice.begin) * item) < 0) {
        return absl::InvalidArgumentError("tensor '" + tensor.name +
                                          "': " + range(slice.begin, slice.end) +
                                          " do not fit in " + manifest.files[slice.file].name);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status check_files(std::span<const FileRecord> files) {
  std::vector<std::string_view> names;
  for (const FileRecord& file : files) {
    const bool plain = !file.name.empty() && file.name.find('/') == std::string::npos &&
                       file.name.find('\0') == std::string::npos && file.name != "." &&
                       file.name != "..";
    if (!plain || file.bytes < 0) {
      return absl::InvalidArgumentError("'" + file.name + "' is no file of a checkpoint");
    }
    names.push_back(file.name);
  }
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice == names.end()) return absl::OkStatus();
  return absl::InvalidArgumentError("file " + std::string(*twice) + " is there twice");
}

}  // namespace

namespace internal {

absl::Status check_manifest(const Manifest& manifest) {
  if (manifest.step < 0 || manifest.world_size < 1) {
    return absl::InvalidArgumentError("step " + std::to_string(manifest.step) + " of a world of " +
                                      std::to_string(manifest.world_size));
  }
  if (const absl::Status status = check_files(manifest.files); !status.ok()) return status;
  for (size_t i = 0; i < manifest.tensors.size(); ++i) {
    const TensorRecord& tensor = manifest.tensors[i];
    if (i > 0 && manifest.tensors[i - 1].name >= tensor.name) {
      return absl::InvalidArgumentError("tensor '" + tensor.name + "' is out of order");
    }
    const absl::Status status = check_tensor(tensor, manifest.files);
    if (!status.ok()) return status;
  }
  return check_room(manifest);
}

}  // namespace internal

const TensorRecord* Manifest::find(std::string_view name) const {
  const auto found = std::lower_bound(
      tensors.begin(), tensors.end(), name,
      [](const TensorRecord& tensor, std::string_view key) { return tensor.name < key; });
  return found != tensors.end() && found->name == name ? &*found : nullptr;
}

absl::StatusOr<Manifest> assemble(int64_t step, std::span<const ShardRecord> shards,
                                  std::string attributes) {
  if (!internal::is_json_object(attributes)) {
    return absl::InvalidArgumentError("a checkpoint's attributes must be a JSON object");
  }
  Manifest manifest{.step = step,
                    .world_size = static_cast<int>(shards.size()),
                    .attributes = std::move(attributes)};
  std::map<std::string, TensorRecord> tensors;
  for (const ShardRecord& shard : shards) {
    const int file = static_cast<int>(manifest.files.size());
    manifest.files.push_back(shard.file);
    for (const TensorRecord& tensor : shard.tensors) {
      const auto [place, added] = tensors.try_emplace(tensor.name);
      TensorRecord& whole = place->second;
      if (added) static_cast<TensorSpec&>(whole) = tensor;
      if (whole.dtype != tensor.dtype || whole.shape != tensor.shape) {
        return absl::InvalidArgumentError("tensor '" + tensor.name + "': " + shard.file.name +
                                          " has another dtype or shape than the files before it");
      }
      for (SliceRecord slice : tensor.slices) {
        slice.file = file;
        whole.slices.push_back(slice);
      }
    }
  }
  for (auto& [name, tensor] : tensors) {
    std::sort(tensor.slices.begin(), tensor.slices.end(),
              [](const SliceRecord& a, const SliceRecord& b) { return a.begin < b.begin; });
    manifest.tensors.push_back(std::move(tensor));
  }
  if (const absl::Status status = internal::check_manifest(manifest); !status.ok()) return status;
  return manifest;
}

}  // namespace lockstep::files
