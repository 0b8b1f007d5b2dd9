#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lockstep::files {

// A file being written. Errors name the path, what the system said and, for a full disk, a
// read-only file system or missing rights, what that means. One thread at a time.
class WritableFile {
 public:
  // Closes; what was not synced may be lost.
  virtual ~WritableFile() = default;
  virtual absl::Status append(std::string_view bytes) = 0;
  // Returns when the bytes are on the disk.
  virtual absl::Status sync() = 0;
  virtual absl::Status close() = 0;
};

// Held while it lives; the system releases it when the process dies, however it dies.
class FileLock {
 public:
  virtual ~FileLock() = default;
};

enum class OpenMode { truncate, append };

// Everything that changes files goes through here, so that tests can make any operation fail and
// replay crashes. Reading does not: see mapped_file.h. Thread-safe.
class FileSystem {
 public:
  virtual ~FileSystem() = default;

  virtual absl::Status create_directories(const std::filesystem::path& path) = 0;
  // Creates the file where it is missing; its directory must exist.
  virtual absl::StatusOr<std::unique_ptr<WritableFile>> open(const std::filesystem::path& path,
                                                             OpenMode mode) = 0;
  // Replaces `to`. A directory replaces only an empty one.
  virtual absl::Status rename(const std::filesystem::path& from,
                              const std::filesystem::path& to) = 0;
  // A file or an empty directory; an error when there is none.
  virtual absl::Status remove(const std::filesystem::path& path) = 0;
  // A file or a directory with everything in it; nothing there is no error.
  virtual absl::Status remove_tree(const std::filesystem::path& path) = 0;
  // Makes creations, renames and removals inside the directory durable.
  virtual absl::Status sync_directory(const std::filesystem::path& path) = 0;
  // Names (not paths) of the entries, sorted.
  virtual absl::StatusOr<std::vector<std::string>> list(const std::filesystem::path& path) = 0;
  virtual bool exists(const std::filesystem::path& path) = 0;
  // Locks the file (created where missing) for this process. When a live process holds it: an
  // AlreadyExists error that says which process on which host.
  virtual absl::StatusOr<std::unique_ptr<FileLock>> lock(const std::filesystem::path& path) = 0;
};

// The operating system's. Stateless.
FileSystem& posix_file_system();

// A file that appears under its name complete and durable, or not at all: written beside its place
// under a temporary name, which the destructor removes unless `commit` succeeded.
class AtomicFile {
 public:
  static absl::StatusOr<AtomicFile> create(FileSystem& file_system, std::filesystem::path path);
  AtomicFile(AtomicFile&&) noexcept = default;
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile();

  // What fails may be told by a later call: large files are written behind (write_behind_file.h).
  absl::Status append(std::string_view bytes) { return file_->append(bytes); }
  // Sync, close, rename, sync of the directory.
  absl::Status commit();

 private:
  AtomicFile(FileSystem& file_system, std::filesystem::path path,
             std::unique_ptr<WritableFile> file)
      : file_system_(&file_system), path_(std::move(path)), file_(std::move(file)) {}

  FileSystem* file_system_;
  std::filesystem::path path_;
  std::unique_ptr<WritableFile> file_;  // empty once committed
};

absl::Status write_file_atomically(FileSystem& file_system, const std::filesystem::path& path,
                                   std::string_view bytes);

}  // namespace lockstep::files
