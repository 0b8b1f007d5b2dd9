#include "lockstep/runtime/files/checkpoint_paths.h"

#include <charconv>
#include <cstdio>

#include "lockstep/runtime/files/checkpoint.h"

namespace lockstep::files {
namespace {

constexpr std::string_view kPrefix = "step-";
constexpr std::string_view kPartial = ".partial";
constexpr std::string_view kReplaced = ".replaced";

std::string padded(int64_t number, int digits) {
  char text[32];
  std::snprintf(text, sizeof text, "%0*lld", digits, static_cast<long long>(number));
  return text;
}

std::filesystem::path hidden(const std::filesystem::path& directory, std::string_view suffix) {
  const auto plain = directory.has_filename() ? directory : directory.parent_path();
  return plain.parent_path() / ("." + plain.filename().string() + std::string(suffix));
}

}  // namespace

std::string checkpoint_name(int64_t step) { return std::string(kPrefix) + padded(step, 8); }

namespace internal {

std::filesystem::path partial_directory(const std::filesystem::path& directory) {
  return hidden(directory, kPartial);
}

std::filesystem::path replaced_directory(const std::filesystem::path& directory) {
  return hidden(directory, kReplaced);
}

std::optional<Entry> parse_entry(std::string_view name) {
  EntryKind kind = EntryKind::checkpoint;
  if (name.starts_with(".")) {
    kind = name.ends_with(kPartial) ? EntryKind::partial : EntryKind::replaced;
    const std::string_view suffix = kind == EntryKind::partial ? kPartial : kReplaced;
    if (!name.ends_with(suffix)) return std::nullopt;
    name = name.substr(1, name.size() - 1 - suffix.size());
  }
  if (!name.starts_with(kPrefix)) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  int64_t step = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), step);
  const bool whole = end == name.data() + name.size() && error == std::errc() && step >= 0;
  if (!whole || padded(step, 8) != name) return std::nullopt;
  return Entry{kind, step};
}

std::string shard_name(int rank, int world_size) {
  return "shard-" + padded(rank, 5) + "-of-" + padded(world_size, 5) + ".safetensors";
}

std::string slice_name(const TensorSpec& tensor, int64_t begin, int64_t end) {
  if (begin == 0 && end == tensor.elements()) return tensor.name;
  return tensor.name + "[" + std::to_string(begin) + ":" + std::to_string(end) + "]";
}

}  // namespace internal
}  // namespace lockstep::files
