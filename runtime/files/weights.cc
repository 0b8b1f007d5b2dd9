#include "lockstep/runtime/files/weights.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "lockstep/runtime/files/system_status.h"

namespace lockstep::files {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingleName = "model.safetensors";
constexpr const char* kIndexName = "model.safetensors.index.json";

using WeightMap = std::map<std::string, std::string>;  // tensor, file

absl::StatusOr<WeightMap> read_index(const fs::path& path) {
  const auto text = read_text_file(path);
  if (!text.ok()) return text.status();
  const auto json = nlohmann::json::parse(*text, nullptr, false);
  const auto invalid = [&](const std::string& problem) {
    return absl::InvalidArgumentError(path.string() + ": " + problem);
  };
  if (!json.is_object()) return invalid("not a JSON object");
  const auto map = json.find("weight_map");
  if (map == json.end() || !map->is_object()) return invalid("it has no weight_map");
  WeightMap files;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string()) return invalid("tensor '" + tensor + "' has no file name");
    const fs::path name = file.get<std::string>();
    if (name.empty() || name != name.filename() || name == "." || name == "..") {
      return invalid("tensor '" + tensor + "': '" + name.string() + "' is not a file beside it");
    }
    files.emplace(tensor, name.string());
  }
  return files;
}

// The index a path stands for; empty when it stands for a single file.
absl::StatusOr<fs::path> index_of(const fs::path& path) {
  std::error_code error;
  if (path.extension() == ".json") return path;
  if (!fs::is_directory(path, error)) return fs::path();
  if (fs::exists(path / kSingleName, error)) return fs::path();
  if (fs::exists(path / kIndexName, error)) return path / kIndexName;
  return absl::NotFoundError(path.string() + " holds neither " + kSingleName + " nor " +
                             kIndexName);
}

std::vector<fs::path> files_behind(const fs::path& path, const fs::path& index,
                                   const WeightMap& map) {
  std::error_code error;
  if (index.empty()) return {fs::is_directory(path, error) ? path / kSingleName : path};
  std::set<fs::path> paths;
  for (const auto& [tensor, file] : map) paths.insert(index.parent_path() / file);
  return {paths.begin(), paths.end()};
}

absl::Status check_against_index(const Weights& weights, const WeightMap& map,
                                 const fs::path& index) {
  for (const auto& [name, file] : map) {
    const TensorEntry* tensor = weights.find(name);
    if (tensor == nullptr || weights.file_of(name).filename() != file) {
      return absl::InvalidArgumentError(index.string() + ": tensor '" + name + "' is not in " +
                                        file);
    }
  }
  for (const TensorEntry* tensor : weights.tensors()) {
    if (!map.contains(tensor->name)) {
      return absl::InvalidArgumentError(index.string() + ": tensor '" + tensor->name + "' of " +
                                        weights.file_of(tensor->name).string() + " is not in it");
    }
  }
  return absl::OkStatus();
}

}  // namespace

const TensorEntry* Weights::find(std::string_view name) const {
  const auto found = std::lower_bound(
      tensors_.begin(), tensors_.end(), name,
      [](const TensorEntry* entry, std::string_view key) { return entry->name < key; });
  return found != tensors_.end() && (*found)->name == name ? *found : nullptr;
}

const fs::path& Weights::file_of(std::string_view name) const {
  const auto holds = [&](const SafetensorsFile& file) { return file.find(name) != nullptr; };
  return std::find_if(files_.begin(), files_.end(), holds)->path();
}

absl::StatusOr<Weights> open_weights(const fs::path& path) {
  const auto index = index_of(path);
  if (!index.ok()) return index.status();
  WeightMap map;
  if (!index->empty()) {
    auto read = read_index(*index);
    if (!read.ok()) return read.status();
    map = *std::move(read);
  }

  Weights weights;
  for (const fs::path& file_path : files_behind(path, *index, map)) {
    auto file = SafetensorsFile::open(file_path);
    if (!file.ok()) return file.status();
    weights.files_.push_back(*std::move(file));
  }
  for (const SafetensorsFile& file : weights.files_) {
    for (const TensorEntry& tensor : file.tensors()) weights.tensors_.push_back(&tensor);
  }
  std::sort(weights.tensors_.begin(), weights.tensors_.end(),
            [](const TensorEntry* a, const TensorEntry* b) { return a->name < b->name; });
  for (size_t i = 1; i < weights.tensors_.size(); ++i) {
    if (weights.tensors_[i]->name == weights.tensors_[i - 1]->name) {
      return absl::InvalidArgumentError(path.string() + ": tensor '" + weights.tensors_[i]->name +
                                        "' is in two files");
    }
  }
  if (!index->empty()) {
    const absl::Status status = check_against_index(weights, map, *index);
    if (!status.ok()) return status;
  }
  return weights;
}

}  // namespace lockstep::files
