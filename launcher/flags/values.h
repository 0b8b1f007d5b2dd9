#pragma once

#include <string>

#include "lockstep/launcher/flags/flags.h"

namespace lockstep::flags::internal {

// Reads `text` as the value of `flag`. Returns what is wrong with it; empty when nothing is.
std::string read_value(const Flag& flag, const std::string& text, std::string& value);
std::string read_value(const Flag& flag, const std::string& text, std::filesystem::path& value);
std::string read_value(const Flag& flag, const std::string& text, int& value);
std::string read_value(const Flag& flag, const std::string& text, int64_t& value);
std::string read_value(const Flag& flag, const std::string& text, double& value);
std::string read_value(const Flag& flag, const std::string& text, std::chrono::milliseconds& value);

template <class T>
std::string read_value(const Flag& flag, const std::string& text, std::optional<T>& value) {
  if (!flag.unset.empty() && text == flag.unset) {
    value.reset();
    return "";
  }
  return read_value(flag, text, value.emplace());
}

// A value as help shows it.
std::string show_value(const Flag& flag, const std::string& value);
std::string show_value(const Flag& flag, const std::filesystem::path& value);
std::string show_value(const Flag& flag, int64_t value);
std::string show_value(const Flag& flag, double value);
std::string show_value(const Flag& flag, std::chrono::milliseconds value);

inline std::string show_value(const Flag& flag, int value) {
  return show_value(flag, int64_t{value});
}
template <class T>
std::string show_value(const Flag& flag, const std::optional<T>& value) {
  return value ? show_value(flag, *value) : flag.unset;
}

// What stands for a value of the type in help.
inline std::string placeholder(const std::string&) { return "TEXT"; }
inline std::string placeholder(const std::filesystem::path&) { return "PATH"; }
inline std::string placeholder(int) { return "N"; }
inline std::string placeholder(int64_t) { return "N"; }
inline std::string placeholder(double) { return "X"; }
inline std::string placeholder(std::chrono::milliseconds) { return "DURATION"; }
template <class T>
std::string placeholder(const std::optional<T>&) {
  return placeholder(T{});
}

}  // namespace lockstep::flags::internal
