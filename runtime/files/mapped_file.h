#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lockstep::files {

enum class EmptyFile { allow, refuse };

// A file's bytes, mapped read-only: nothing is read until it is touched. The file must not shrink
// while it is mapped. Immutable, so any thread may read.
class MappedFile {
 public:
  // NotFound when there is no such file; InvalidArgument for a directory, anything else that is
  // not a regular file, and an empty one where refused.
  static absl::StatusOr<MappedFile> open(const std::filesystem::path& path,
                                         EmptyFile empty = EmptyFile::allow);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::filesystem::path& path() const { return path_; }
  size_t size() const { return size_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  MappedFile(std::filesystem::path path, const std::byte* data, size_t size)
      : path_(std::move(path)), data_(data), size_(size) {}

  std::filesystem::path path_;
  const std::byte* data_ = nullptr;  // page-aligned; null for an empty file
  size_t size_ = 0;
};

// The whole file as text. For small files; same errors as MappedFile::open, and InvalidArgument
// above `largest` bytes.
absl::StatusOr<std::string> read_text_file(const std::filesystem::path& path,
                                           size_t largest = size_t{1} << 28);

}  // namespace lockstep::files
