#include "lockstep/runtime/files/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "lockstep/runtime/files/system_status.h"

namespace lockstep::files {
namespace {

// The size of an open file that can be mapped.
absl::StatusOr<size_t> mappable_size(int descriptor, EmptyFile empty,
                                     const std::filesystem::path& path) {
  struct stat info = {};
  if (::fstat(descriptor, &info) != 0) return system_status(errno, "read", path);
  if (S_ISDIR(info.st_mode)) {
    return absl::InvalidArgumentError(path.string() + " is a directory, expected a file");
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(path.string() + " is not a regular file");
  }
  if (info.st_size == 0 && empty == EmptyFile::refuse) {
    return absl::InvalidArgumentError(path.string() + " is empty");
  }
  return static_cast<size_t>(info.st_size);
}

}  // namespace

absl::StatusOr<MappedFile> MappedFile::open(const std::filesystem::path& path, EmptyFile empty) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return system_status(errno, "open", path);
  const auto size = mappable_size(descriptor, empty, path);
  if (!size.ok() || *size == 0) {
    ::close(descriptor);
    if (!size.ok()) return size.status();
    return MappedFile(path, nullptr, 0);
  }
  void* data = ::mmap(nullptr, *size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  const int error = errno;
  ::close(descriptor);
  if (data == MAP_FAILED) return system_status(error, "map", path);
  return MappedFile(path, static_cast<const std::byte*>(data), *size);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

absl::StatusOr<std::string> read_text_file(const std::filesystem::path& path, size_t largest) {
  const auto file = MappedFile::open(path);
  if (!file.ok()) return file.status();
  if (file->size() > largest) {
    return absl::InvalidArgumentError(path.string() + " has " + std::to_string(file->size()) +
                                      " bytes, expected at most " + std::to_string(largest));
  }
  return std::string(file->text());
}

}  // namespace lockstep::files
