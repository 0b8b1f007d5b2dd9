#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/runtime/array.h"
#include "nlohmann/json.hpp"

namespace lockstep::conformance {

using Json = nlohmann::json;
using Arrays = std::map<std::string, Array, std::less<>>;

// One recorded case: what went in, what has to come out. cases/README.md describes the format.
struct Case {
  std::string file;  // as it was found, for messages
  std::string kind;
  std::string name;
  Json attributes;
  double relative_tolerance = 0;
  double absolute_tolerance = 0;
  Arrays tensors;

  // Empty if there is none.
  Array find(std::string_view tensor) const;
  // The tensors whose names start with `prefix`, without it.
  Arrays with_prefix(std::string_view prefix) const;
  // prefix0, prefix1, …, as many as there are without a gap.
  std::vector<Array> listed(const std::string& prefix) const;
};

// Its tensors lie on the context's device. Throws Error if the file is not a case.
Case read_case(const std::filesystem::path& path);

// Every *.safetensors file below the directories (or the files themselves), sorted. Throws Error
// where there is none.
std::vector<std::filesystem::path> find_cases(const std::vector<std::string>& directories);

// A finite JSON number, or "inf", "-inf", "nan".
double number_of(const Json& value);

}  // namespace lockstep::conformance
