#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/runtime/error.h"

// What modules say of themselves, written as PyTorch does.
namespace lockstep::nn::internal {

inline const char* text(bool value) { return value ? "True" : "False"; }
inline std::string text(std::optional<double> value) {
  return value ? concat({*value}) : std::string("None");
}
// "(3, 3)", "(3,)"
template <class List>
std::string tuple(const List& values) {
  std::string result = "(";
  const char* separator = "";
  int64_t count = 0;
  for (int64_t value : values) {
    result += separator + std::to_string(value);
    separator = ", ";
    ++count;
  }
  return result + (count == 1 ? ",)" : ")");
}

}  // namespace lockstep::nn::internal
