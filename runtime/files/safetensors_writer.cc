#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <tuple>

#include "lockstep/runtime/files/safetensors.h"

namespace lockstep::files {
namespace {

absl::Status check_specs(std::span<const TensorSpec> tensors) {
  std::vector<std::string_view> names;
  for (const TensorSpec& tensor : tensors) {
    names.push_back(tensor.name);
    int64_t bytes = static_cast<int64_t>(size_of(tensor.dtype));
    bool bad = tensor.name == "__metadata__";
    for (const int64_t dim : tensor.shape) {
      bad |= dim < 0 || __builtin_mul_overflow(bytes, dim, &bytes);
    }
    if (bad) {
      return absl::InvalidArgumentError("tensor '" + tensor.name +
                                        "' has a name or shape that no file can hold");
    }
  }
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice == names.end()) return absl::OkStatus();
  return absl::InvalidArgumentError("tensor '" + std::string(*twice) + "' is there twice");
}

// Length, JSON and padding.
absl::StatusOr<std::string> header_bytes(std::span<const TensorSpec> tensors,
                                         const Metadata& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  size_t offset = 0;
  for (const TensorSpec& tensor : tensors) {
    const size_t end = offset + tensor.bytes();
    // Not header[name] = …: an ordered object looks a name up in linear time.
    nlohmann::ordered_json entry;
    entry["dtype"] = std::string(safetensors_name_of(tensor.dtype));
    entry["shape"] = tensor.shape;
    entry["data_offsets"] = {offset, end};
    header.get_ref<nlohmann::ordered_json::object_t&>().push_back({tensor.name, std::move(entry)});
    offset = end;
  }
  std::string json;
  try {
    json = header.dump();
  } catch (const nlohmann::json::exception&) {
    return absl::InvalidArgumentError("a name or a metadata value is not UTF-8");
  }
  json.append((8 - json.size() % 8) % 8, ' ');
  std::string bytes(8, '\0');
  const uint64_t size = json.size();
  std::memcpy(bytes.data(), &size, sizeof size);
  return bytes + json;
}

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

absl::StatusOr<SafetensorsWriter> SafetensorsWriter::create(FileSystem& file_system,
                                                            const std::filesystem::path& path,
                                                            std::vector<TensorSpec> tensors,
                                                            const Metadata& metadata) {
  if (const absl::Status status = check_specs(tensors); !status.ok()) return status;
  std::sort(tensors.begin(), tensors.end(), [](const TensorSpec& a, const TensorSpec& b) {
    return std::tuple(size_of(b.dtype), std::string_view(a.name)) <
           std::tuple(size_of(a.dtype), std::string_view(b.name));
  });
  const auto header = header_bytes(tensors, metadata);
  if (!header.ok()) return header.status();
  auto file = AtomicFile::create(file_system, path);
  if (!file.ok()) return file.status();

  SafetensorsWriter writer(*std::move(file), path, std::move(tensors));
  writer.expected_bytes_ = static_cast<int64_t>(header->size());
  for (const TensorSpec& tensor : writer.tensors_) {
    writer.expected_bytes_ += static_cast<int64_t>(tensor.bytes());
  }
  const absl::Status status = writer.append(std::as_bytes(std::span(*header)));
  if (!status.ok()) return status;
  return writer;
}

absl::Status SafetensorsWriter::append(std::span<const std::byte> bytes) {
  hasher_.update(bytes);
  written_bytes_ += static_cast<int64_t>(bytes.size());
  return file_.append(text_of(bytes));
}

absl::StatusOr<WrittenFile> SafetensorsWriter::finish() {
  if (written_bytes_ != expected_bytes_) {
    return absl::InternalError(path_.string() + ": " + std::to_string(written_bytes_) +
                               " bytes were written where its tensors need " +
                               std::to_string(expected_bytes_));
  }
  if (const absl::Status status = file_.commit(); !status.ok()) return status;
  return WrittenFile{written_bytes_, hasher_.digest()};
}

absl::StatusOr<WrittenFile> write_safetensors(FileSystem& file_system,
                                              const std::filesystem::path& path,
                                              std::span<const TensorData> tensors,
                                              const Metadata& metadata) {
  std::map<std::string_view, const TensorData*> by_name;
  for (const TensorData& tensor : tensors) by_name.emplace(tensor.name, &tensor);
  auto writer = SafetensorsWriter::create(
      file_system, path, std::vector<TensorSpec>(tensors.begin(), tensors.end()), metadata);
  if (!writer.ok()) return writer.status();
  for (const TensorSpec& tensor : writer->tensors()) {
    const auto* data = static_cast<const std::byte*>(by_name.at(tensor.name)->data);
    const absl::Status status = writer->append({data, tensor.bytes()});
    if (!status.ok()) return status;
  }
  return writer->finish();
}

}  // namespace lockstep::files
