#pragma once

#include <cstring>
#include <filesystem>
#include <map>
#include <string>

#include "lockstep/runtime/array.h"
#include "lockstep/runtime/files/safetensors.h"

namespace lockstep::testing {

// A file or folder of tests/data.
inline std::filesystem::path test_data(const std::string& name) {
  return std::filesystem::path(__FILE__).parent_path().parent_path() / "data" / name;
}

inline std::map<std::string, Array> read_tensors(const std::filesystem::path& path) {
  const auto file = files::SafetensorsFile::open(path);
  if (!file.ok()) fail({std::string(file.status().message())});
  std::map<std::string, Array> result;
  for (const files::TensorEntry& entry : file->tensors()) {
    Array values = Array::empty(Shape(std::span<const int64_t>(entry.shape)), entry.dtype);
    std::memcpy(values.data(), entry.data.data(), entry.data.size());
    result[entry.name] = values;
  }
  return result;
}

}  // namespace lockstep::testing
