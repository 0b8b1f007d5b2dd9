#include <algorithm>
#include <cstring>

#include "lockstep/runtime/files/checkpoint.h"
#include "lockstep/runtime/files/checkpoint_paths.h"
#include "lockstep/runtime/files/system_status.h"

namespace lockstep::files {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLargestManifest = size_t{1} << 30;

absl::StatusOr<Manifest> read_manifest(const fs::path& directory) {
  std::error_code error;
  if (!fs::exists(directory, error)) {
    return absl::NotFoundError(directory.string() + " does not exist");
  }
  const fs::path path = directory / internal::kManifestName;
  if (!fs::exists(path, error)) {
    return absl::NotFoundError(directory.string() + " is not a checkpoint: it has no " +
                               internal::kManifestName);
  }
  const auto text = read_text_file(path, kLargestManifest);
  if (!text.ok()) return text.status();
  auto manifest = Manifest::from_json(*text);
  if (!manifest.ok()) {
    return absl::Status(manifest.status().code(),
                        path.string() + " " + std::string(manifest.status().message()));
  }
  return manifest;
}

// What a look at the file's size tells; empty when it is right.
std::string size_problem(const fs::path& path, int64_t expected) {
  std::error_code error;
  const auto size = fs::file_size(path, error);
  if (error == std::errc::no_such_file_or_directory) return "is missing";
  if (error) return "cannot be read: " + error.message();
  if (static_cast<int64_t>(size) == expected) return "";
  return (static_cast<int64_t>(size) < expected ? "is truncated: " : "is too long: ") +
         std::to_string(size) + " bytes, expected " + std::to_string(expected);
}

const TensorEntry* find_slice(const SafetensorsFile& file, const TensorRecord& tensor,
                              const SliceRecord& slice) {
  const auto* entry = file.find(internal::slice_name(tensor, slice.begin, slice.end));
  const bool matches = entry != nullptr && entry->dtype == tensor.dtype &&
                       entry->elements() == slice.end - slice.begin;
  return matches ? entry : nullptr;
}

// Calls visit(tensor, slice) for everything the manifest has in a file.
template <class Visit>
void for_each_slice(const Manifest& manifest, int file, const Visit& visit) {
  for (const TensorRecord& tensor : manifest.tensors) {
    for (const SliceRecord& slice : tensor.slices) {
      if (slice.file == file) visit(tensor, slice);
    }
  }
}

// The tensors whose values in `file` (null: an unreadable one) are not those that were written.
std::vector<std::string> damaged_tensors(const Manifest& manifest, int index,
                                         const SafetensorsFile* file) {
  std::vector<std::string> names;
  for_each_slice(manifest, index, [&](const TensorRecord& tensor, const SliceRecord& slice) {
    const auto* entry = file != nullptr ? find_slice(*file, tensor, slice) : nullptr;
    const bool sound = entry != nullptr && checksum_of(entry->data) == slice.checksum;
    if (!sound && (names.empty() || names.back() != tensor.name)) names.push_back(tensor.name);
  });
  return names;
}

std::string describe(const fs::path& directory, const Damage& damage) {
  constexpr size_t kShown = 5;
  std::string text = (directory / damage.file).string() + " " + damage.problem;
  for (size_t i = 0; i < std::min(damage.tensors.size(), kShown); ++i) {
    text += (i == 0 ? " (damaged: " : ", ") + damage.tensors[i];
  }
  if (damage.tensors.size() > kShown) {
    text += " and " + std::to_string(damage.tensors.size() - kShown) + " more";
  }
  return damage.tensors.empty() ? text : text + ")";
}

}  // namespace

absl::StatusOr<Checkpoint> Checkpoint::open(const fs::path& directory) {
  auto manifest = read_manifest(directory);
  if (!manifest.ok()) return manifest.status();
  for (const FileRecord& file : manifest->files) {
    const std::string problem = size_problem(directory / file.name, file.bytes);
    if (!problem.empty()) {
      return absl::DataLossError((directory / file.name).string() + " " + problem);
    }
  }
  return Checkpoint(directory, *std::move(manifest));
}

absl::StatusOr<std::vector<Damage>> Checkpoint::verify(const fs::path& directory) {
  auto manifest = read_manifest(directory);
  if (!manifest.ok()) return manifest.status();
  const Checkpoint checkpoint(directory, *std::move(manifest));
  std::vector<Damage> damages;
  for (size_t i = 0; i < checkpoint.manifest_.files.size(); ++i) {
    Damage damage;
    if (!checkpoint.inspect(static_cast<int>(i), damage)) damages.push_back(std::move(damage));
  }
  return damages;
}

std::optional<SafetensorsFile> Checkpoint::inspect(int index, Damage& damage) const {
  const FileRecord& record = manifest_.files[index];
  const fs::path path = directory_ / record.name;
  damage.file = record.name;
  damage.problem = size_problem(path, record.bytes);
  auto file = SafetensorsFile::open(path);
  if (!damage.problem.empty() || !file.ok()) {
    if (damage.problem.empty())
      damage.problem = "is damaged: " + std::string(file.status().message());
    damage.tensors = damaged_tensors(manifest_, index, nullptr);
    return std::nullopt;
  }
  const Checksum checksum = checksum_of(file->bytes());
  if (checksum != record.checksum) {
    damage.problem = "is damaged: its checksum is " + checksum.to_hex() + ", expected " +
                     record.checksum.to_hex();
    damage.tensors = damaged_tensors(manifest_, index, &*file);
    return std::nullopt;
  }
  for_each_slice(manifest_, index, [&](const TensorRecord& tensor, const SliceRecord& slice) {
    if (find_slice(*file, tensor, slice) == nullptr) damage.tensors.push_back(tensor.name);
  });
  if (!damage.tensors.empty()) {
    damage.problem = "does not hold what the manifest says";
    return std::nullopt;
  }
  return *std::move(file);
}

absl::StatusOr<const SafetensorsFile*> Checkpoint::shard(int index) {
  const auto opened = shards_.find(index);
  if (opened != shards_.end()) return &opened->second;
  Damage damage;
  auto file = inspect(index, damage);
  if (!file) return absl::DataLossError(describe(directory_, damage));
  return &shards_.emplace(index, *std::move(file)).first->second;
}

absl::Status Checkpoint::read(std::string_view name, int64_t begin, int64_t end, void* out) {
  const TensorRecord* tensor = manifest_.find(name);
  if (tensor == nullptr) {
    return absl::NotFoundError(directory_.string() + " has no tensor '" + std::string(name) + "'");
  }
  if (begin < 0 || begin > end || end > tensor->elements()) {
    return absl::OutOfRangeError(directory_.string() + ": elements [" + std::to_string(begin) +
                                 ", " + std::to_string(end) + ") of '" + tensor->name +
                                 "', which has " + std::to_string(tensor->elements()));
  }
  const auto item = static_cast<int64_t>(size_of(tensor->dtype));
  auto slice = std::upper_bound(
      tensor->slices.begin(), tensor->slices.end(), begin,
      [](int64_t element, const SliceRecord& record) { return element < record.end; });
  auto* to = static_cast<std::byte*>(out);
  for (; begin < end; ++slice) {
    const auto file = shard(slice->file);
    if (!file.ok()) return file.status();
    const TensorEntry* entry = find_slice(**file, *tensor, *slice);
    const int64_t stop = std::min(end, slice->end);
    const auto bytes = static_cast<size_t>((stop - begin) * item);
    std::memcpy(to, entry->data.data() + (begin - slice->begin) * item, bytes);
    to += bytes;
    begin = stop;
  }
  return absl::OkStatus();
}

}  // namespace lockstep::files
