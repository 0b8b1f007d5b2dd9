#include "conformance/case.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "lockstep/runtime/context.h"
#include "lockstep/runtime/files/safetensors.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::conformance {
namespace {

Array array_of(const files::TensorEntry& entry) {
  const Array array = Array::empty(Shape(std::span<const int64_t>(entry.shape)), entry.dtype);
  if (!entry.data.empty()) std::memcpy(array.data(), entry.data.data(), entry.data.size());
  return kernels::to_device(array, context().device);
}

// A window on a tensor that was recorded as memory of rank 1.
Array window(const std::string& name, const Array& memory, const Json& layout) {
  const auto shape = layout.at("shape").get<std::vector<int64_t>>();
  const auto strides = layout.at("strides").get<std::vector<int64_t>>();
  const int64_t offset = layout.at("offset").get<int64_t>();
  LOCKSTEP_CHECK(memory.rank() == 1 && shape.size() == strides.size() && offset >= 0,
                 "the layout of ", name, " does not fit ", memory.shape());
  int64_t last = offset;
  bool empty = false;
  for (size_t i = 0; i < shape.size(); ++i) {
    LOCKSTEP_CHECK(shape[i] >= 0 && strides[i] >= 0, "the layout of ", name, " is negative");
    empty = empty || shape[i] == 0;
    last += (shape[i] - 1) * strides[i];
  }
  LOCKSTEP_CHECK(empty || last < memory.elements(), "the layout of ", name, " leaves its memory");
  return Array(memory.storage(), memory.dtype(), Shape(std::span<const int64_t>(shape)),
               Shape(std::span<const int64_t>(strides)), offset);
}

std::string required(const files::Metadata& metadata, const char* key) {
  const auto found = metadata.find(key);
  LOCKSTEP_CHECK(found != metadata.end(), "not a case: its metadata has no '", key, "'");
  return found->second;
}

}  // namespace

double number_of(const Json& value) {
  if (value.is_number()) return value.get<double>();
  LOCKSTEP_CHECK(value.is_string(), "expected a number, found ", value.dump());
  const std::string text = value.get<std::string>();
  if (text == "inf") return std::numeric_limits<double>::infinity();
  if (text == "-inf") return -std::numeric_limits<double>::infinity();
  LOCKSTEP_CHECK(text == "nan", "expected a number, found '", text, "'");
  return std::numeric_limits<double>::quiet_NaN();
}

Array Case::find(std::string_view tensor) const {
  const auto found = tensors.find(tensor);
  return found == tensors.end() ? Array() : found->second;
}

Arrays Case::with_prefix(std::string_view prefix) const {
  Arrays found;
  for (auto at = tensors.lower_bound(prefix); at != tensors.end(); ++at) {
    if (!at->first.starts_with(prefix)) break;
    found.emplace(at->first.substr(prefix.size()), at->second);
  }
  return found;
}

std::vector<Array> Case::listed(const std::string& prefix) const {
  std::vector<Array> found;
  while (Array next = find(prefix + std::to_string(found.size()))) found.push_back(next);
  return found;
}

Case read_case(const std::filesystem::path& path) {
  auto file = files::SafetensorsFile::open(path);
  LOCKSTEP_CHECK(file.ok(), file.status().ToString());
  const files::Metadata& metadata = file->metadata();
  Case result;
  result.file = path.string();
  result.kind = required(metadata, "kind");
  result.name = required(metadata, "name");
  result.relative_tolerance = std::stod(required(metadata, "rtol"));
  result.absolute_tolerance = std::stod(required(metadata, "atol"));
  try {
    result.attributes = Json::parse(required(metadata, "attributes"));
    for (const files::TensorEntry& entry : file->tensors()) {
      result.tensors.emplace(entry.name, array_of(entry));
    }
    const auto layouts = metadata.find("layouts");
    if (layouts == metadata.end()) return result;
    const Json given = Json::parse(layouts->second);
    for (const auto& [name, layout] : given.items()) {
      const auto found = result.tensors.find(name);
      LOCKSTEP_CHECK(found != result.tensors.end(), "a layout of '", name, "', which is missing");
      found->second = window(name, found->second, layout);
    }
  } catch (const Json::exception& error) {
    fail({"not a case: ", error.what()});
  }
  return result;
}

std::vector<std::filesystem::path> find_cases(const std::vector<std::string>& directories) {
  std::vector<std::filesystem::path> found;
  for (const std::string& directory : directories) {
    const size_t before = found.size();
    if (std::filesystem::is_directory(directory)) {
      for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
        if (entry.path().extension() == ".safetensors") found.push_back(entry.path());
      }
    } else if (std::filesystem::exists(directory)) {
      found.push_back(directory);
    }
    LOCKSTEP_CHECK(found.size() > before, directory, ": there are no *.safetensors files");
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace lockstep::conformance
