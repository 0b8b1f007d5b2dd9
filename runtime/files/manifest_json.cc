#include "lockstep/runtime/files/manifest_json.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

namespace lockstep::files {
namespace {

// Ordered, so that the text is the same each time and reads from the top.
using Json = nlohmann::ordered_json;

constexpr std::string_view kFormat = "lockstep-checkpoint";
// What follows the bytes that the checksum covers, around its digits.
constexpr std::string_view kChecksumOpen = "\"checksum\": \"";
constexpr std::string_view kChecksumClose = "\"\n}\n";
constexpr size_t kTailSize = kChecksumOpen.size() + 32 + kChecksumClose.size();

// Thrown and caught in this file: a tree of values is checked without a status at each node.
struct Malformed : std::runtime_error {
  using std::runtime_error::runtime_error;
};

const Json& member(const Json& json, const char* name) {
  if (!json.is_object()) throw Malformed(std::string("expected an object with ") + name);
  const auto found = json.find(name);
  if (found == json.end()) throw Malformed(std::string(name) + " is missing");
  return *found;
}

std::string text_of(const Json& json, const char* name) {
  const Json& value = member(json, name);
  if (!value.is_string()) throw Malformed(std::string(name) + " is not a string");
  return value.get<std::string>();
}

int64_t whole_number(const Json& value, const char* name) {
  const bool fits = value.is_number_integer() &&
                    (!value.is_number_unsigned() || value.get<uint64_t>() <= INT64_MAX);
  if (!fits) throw Malformed(std::string(name) + " is not a whole number");
  return value.get<int64_t>();
}

int64_t integer_of(const Json& json, const char* name) {
  return whole_number(member(json, name), name);
}

int small_integer_of(const Json& json, const char* name) {
  const int64_t value = integer_of(json, name);
  if (value < 0 || value > INT32_MAX) throw Malformed(std::string(name) + " is out of range");
  return static_cast<int>(value);
}

const Json& list_of(const Json& json, const char* name) {
  const Json& value = member(json, name);
  if (!value.is_array()) throw Malformed(std::string(name) + " is not a list");
  return value;
}

Checksum checksum_member(const Json& json) {
  const auto checksum = Checksum::from_hex(text_of(json, "checksum"));
  if (!checksum) throw Malformed("a checksum is not 32 hexadecimal digits");
  return *checksum;
}

DType dtype_member(const Json& json) {
  const std::string name = text_of(json, "dtype");
  for (int i = 0; i <= static_cast<int>(DType::boolean); ++i) {
    const auto dtype = static_cast<DType>(i);
    if (safetensors_name_of(dtype) == name) return dtype;
  }
  throw Malformed("'" + name + "' is no dtype");
}

Json to_tree(const FileRecord& file) {
  return {{"name", file.name}, {"bytes", file.bytes}, {"checksum", file.checksum.to_hex()}};
}

FileRecord file_from(const Json& json) {
  return {text_of(json, "name"), integer_of(json, "bytes"), checksum_member(json)};
}

Json to_tree(const TensorRecord& tensor) {
  Json slices = Json::array();
  for (const SliceRecord& slice : tensor.slices) {
    slices.push_back({{"file", slice.file},
                      {"begin", slice.begin},
                      {"end", slice.end},
                      {"checksum", slice.checksum.to_hex()}});
  }
  Json tree;
  tree["name"] = tensor.name;
  tree["dtype"] = std::string(safetensors_name_of(tensor.dtype));
  tree["shape"] = tensor.shape;
  tree["slices"] = std::move(slices);
  return tree;
}

TensorRecord tensor_from(const Json& json) {
  TensorRecord tensor;
  tensor.name = text_of(json, "name");
  tensor.dtype = dtype_member(json);
  for (const Json& dim : list_of(json, "shape")) {
    tensor.shape.push_back(whole_number(dim, "a dimension"));
  }
  for (const Json& slice : list_of(json, "slices")) {
    tensor.slices.push_back({small_integer_of(slice, "file"), integer_of(slice, "begin"),
                             integer_of(slice, "end"), checksum_member(slice)});
  }
  return tensor;
}

// One record a line: a manifest is read by people, too.
void append_lines(std::string& text, const char* name, const auto& records) {
  text.append("\"").append(name).append("\": [");
  const char* separator = "\n ";
  for (const auto& record : records) {
    text.append(separator).append(to_tree(record).dump());
    separator = ",\n ";
  }
  text.append("],\n");
}

absl::Status damaged(const std::string& problem) { return absl::DataLossError(problem); }

// The JSON text without its checksum, which is compared.
absl::Status check_tail(std::string_view text) {
  if (text.size() < kTailSize) return damaged("is truncated or empty");
  const std::string_view tail = text.substr(text.size() - kTailSize);
  if (!tail.starts_with(kChecksumOpen) || !tail.ends_with(kChecksumClose)) {
    return damaged("is truncated or not a manifest: it does not end with its checksum");
  }
  const std::string_view digits = tail.substr(kChecksumOpen.size(), 32);
  const std::string actual = checksum_of(text.substr(0, text.size() - kTailSize)).to_hex();
  if (digits == actual) return absl::OkStatus();
  return damaged("is damaged: its checksum is " + actual + ", it says " + std::string(digits));
}

Manifest manifest_from(const Json& json) {
  Manifest manifest;
  manifest.step = integer_of(json, "step");
  manifest.world_size = small_integer_of(json, "world_size");
  for (const Json& tensor : list_of(json, "tensors")) {
    manifest.tensors.push_back(tensor_from(tensor));
  }
  for (const Json& file : list_of(json, "files")) manifest.files.push_back(file_from(file));
  const Json& attributes = member(json, "attributes");
  if (!attributes.is_object()) throw Malformed("attributes is not an object");
  manifest.attributes = attributes.dump();
  return manifest;
}

}  // namespace

bool internal::is_json_object(std::string_view text) {
  return Json::parse(text.begin(), text.end(), nullptr, false).is_object();
}

std::string ShardRecord::to_json() const {
  Json json;
  json["file"] = to_tree(file);
  json["tensors"] = Json::array();
  for (const TensorRecord& tensor : tensors) json["tensors"].push_back(to_tree(tensor));
  return json.dump();
}

absl::StatusOr<ShardRecord> ShardRecord::from_json(std::string_view text) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, false);
  try {
    ShardRecord record{.file = file_from(member(json, "file"))};
    for (const Json& tensor : list_of(json, "tensors")) {
      record.tensors.push_back(tensor_from(tensor));
    }
    return record;
  } catch (const Malformed& error) {
    return absl::InvalidArgumentError(std::string("a shard's record: ") + error.what());
  }
}

std::string Manifest::to_json() const {
  std::string text = "{\n\"format\": \"";
  text.append(kFormat).append("\",\n\"version\": ").append(std::to_string(kFormatVersion));
  text.append(",\n\"step\": ").append(std::to_string(step));
  text.append(",\n\"world_size\": ").append(std::to_string(world_size)).append(",\n");
  append_lines(text, "files", files);
  append_lines(text, "tensors", tensors);
  text.append("\"attributes\": ").append(attributes).append(",\n");
  const std::string checksum = checksum_of(text).to_hex();
  return text.append(kChecksumOpen).append(checksum).append(kChecksumClose);
}

absl::StatusOr<Manifest> Manifest::from_json(std::string_view text) {
  if (const absl::Status status = check_tail(text); !status.ok()) return status;
  const Json json = Json::parse(text.begin(), text.end(), nullptr, false);
  try {
    if (text_of(json, "format") != kFormat)
      throw Malformed("its format is not " + std::string(kFormat));
    const int version = small_integer_of(json, "version");
    if (version != kFormatVersion) {
      return absl::FailedPreconditionError("is of format version " + std::to_string(version) +
                                           "; this program reads version " +
                                           std::to_string(kFormatVersion));
    }
    Manifest manifest = manifest_from(json);
    const absl::Status status = internal::check_manifest(manifest);
    if (!status.ok()) return damaged("is inconsistent: " + std::string(status.message()));
    return manifest;
  } catch (const Malformed& error) {
    return damaged(std::string("is not a manifest: ") + error.what());
  }
}

}  // namespace lockstep::files
