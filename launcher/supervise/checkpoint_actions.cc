#include "lockstep/launcher/supervise/checkpoint_actions.h"

#include <algorithm>
#include <ostream>
#include <vector>

namespace lockstep::supervise {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kModel = "model/";
constexpr int64_t kChunkBytes = int64_t{1} << 24;

// Calls visit(bytes) on the values of a tensor, piece by piece.
template <class Visit>
absl::Status for_each_piece(files::Checkpoint& checkpoint, const files::TensorRecord& tensor,
                            const Visit& visit) {
  const auto item = static_cast<int64_t>(size_of(tensor.dtype));
  std::vector<std::byte> bytes;
  for (int64_t begin = 0; begin < tensor.elements();) {
    const int64_t end = std::min(tensor.elements(), begin + kChunkBytes / item);
    bytes.resize(static_cast<size_t>((end - begin) * item));
    absl::Status status = checkpoint.read(tensor.name, begin, end, bytes.data());
    if (status.ok()) status = visit(std::span<const std::byte>(bytes));
    if (!status.ok()) return status;
    begin = end;
  }
  return absl::OkStatus();
}

std::string own_name(const files::TensorRecord& tensor) {
  return tensor.name.substr(kModel.size());
}

std::vector<const files::TensorRecord*> model_tensors(const files::Manifest& manifest) {
  std::vector<const files::TensorRecord*> tensors;
  for (const files::TensorRecord& tensor : manifest.tensors) {
    if (tensor.name.starts_with(kModel)) tensors.push_back(&tensor);
  }
  return tensors;
}

bool is_checkpoint(const fs::path& path) {
  std::error_code error;
  return fs::exists(path / "manifest.json", error);
}

}  // namespace

fs::path checkpoints_of(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path / "checkpoints", error) ? path / "checkpoints" : path;
}

absl::StatusOr<fs::path> choose_checkpoint(const fs::path& path, std::ostream& error) {
  std::error_code failure;
  if (!fs::exists(path, failure)) return absl::NotFoundError(path.string() + " does not exist");
  if (is_checkpoint(path)) return path;
  const auto found = files::list_checkpoints(checkpoints_of(path));
  if (!found.ok()) return found.status();
  if (found->empty()) {
    return absl::NotFoundError(path.string() +
                               " is no checkpoint (no manifest.json) and holds none");
  }
  for (auto info = found->rbegin(); info != found->rend(); ++info) {
    if (info->status.ok()) return info->directory;
    error << "lockstep checkpoint: passing over a damaged one: " << info->status.message() << "\n";
  }
  return absl::DataLossError(path.string() + " holds no checkpoint that is whole");
}

absl::StatusOr<files::Checksum> hash_model(files::Checkpoint& checkpoint) {
  files::Hasher hasher;
  for (const files::TensorRecord* tensor : model_tensors(checkpoint.manifest())) {
    std::string head =
        own_name(*tensor) + '\0' + std::string(files::safetensors_name_of(tensor->dtype)) + '\0';
    for (const int64_t dim : tensor->shape) head += std::to_string(dim) + ",";
    hasher.update(head + '\0');
    const absl::Status status =
        for_each_piece(checkpoint, *tensor, [&](std::span<const std::byte> bytes) {
          hasher.update(bytes);
          return absl::OkStatus();
        });
    if (!status.ok()) return status;
  }
  return hasher.digest();
}

absl::Status export_model(files::Checkpoint& checkpoint, const fs::path& to) {
  const auto tensors = model_tensors(checkpoint.manifest());
  if (tensors.empty()) {
    return absl::NotFoundError(checkpoint.directory().string() + " has no tensor under model/");
  }
  std::vector<files::TensorSpec> specs;
  for (const files::TensorRecord* tensor : tensors) {
    specs.push_back({own_name(*tensor), tensor->dtype, tensor->shape});
  }
  auto writer = files::SafetensorsWriter::create(files::posix_file_system(), to, std::move(specs),
                                                 {{"format", "pt"}});
  if (!writer.ok()) return writer.status();
  for (const files::TensorSpec& spec : writer->tensors()) {
    const auto* tensor = checkpoint.manifest().find(std::string(kModel) + spec.name);
    const absl::Status status =
        for_each_piece(checkpoint, *tensor,
                       [&](std::span<const std::byte> bytes) { return writer->append(bytes); });
    if (!status.ok()) return status;
  }
  return writer->finish().status();
}

}  // namespace lockstep::supervise
