#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "lockstep/runtime/files/file_system.h"
#include "lockstep/runtime/files/system_status.h"

namespace lockstep::files {
namespace {

namespace fs = std::filesystem;

absl::Status write_all(int descriptor, std::string_view bytes, const fs::path& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return system_status(errno, "write", path);
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

// After so many bytes the disk begins with what there is: sync() then waits for little.
constexpr size_t kWritebackBytes = size_t{32} << 20;

class PosixFile final : public WritableFile {
 public:
  PosixFile(int descriptor, fs::path path) : descriptor_(descriptor), path_(std::move(path)) {}
  ~PosixFile() override {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  absl::Status append(std::string_view bytes) override {
    const absl::Status status = write_all(descriptor_, bytes, path_);
    unwritten_bytes_ += bytes.size();
    return status.ok() && unwritten_bytes_ >= kWritebackBytes ? start_writeback() : status;
  }
  absl::Status sync() override {
    return ::fsync(descriptor_) == 0 ? absl::OkStatus() : system_status(errno, "flush", path_);
  }
  absl::Status close() override {
    const int descriptor = std::exchange(descriptor_, -1);
    return ::close(descriptor) == 0 ? absl::OkStatus() : system_status(errno, "close", path_);
  }

 private:
  // A hint, which not every file system takes.
  absl::Status start_writeback() {
    unwritten_bytes_ = 0;
    if (::sync_file_range(descriptor_, 0, 0, SYNC_FILE_RANGE_WRITE) == 0) return absl::OkStatus();
    const bool lost = errno == EIO || errno == ENOSPC || errno == EDQUOT;
    return lost ? system_status(errno, "write", path_) : absl::OkStatus();
  }

  int descriptor_;
  fs::path path_;
  size_t unwritten_bytes_ = 0;
};

class PosixLock final : public FileLock {
 public:
  explicit PosixLock(int descriptor) : descriptor_(descriptor) {}
  ~PosixLock() override {
    // The file stays: removing it could take it from under a process that just opened it.
    [[maybe_unused]] const int ignored = ::ftruncate(descriptor_, 0);
    ::close(descriptor_);
  }

 private:
  int descriptor_;
};

std::string holder_of(int descriptor) {
  char text[256];
  const ssize_t size = ::pread(descriptor, text, sizeof text, 0);
  std::string holder(text, static_cast<size_t>(std::max<ssize_t>(size, 0)));
  while (!holder.empty() && holder.back() == '\n') holder.pop_back();
  return holder.empty() ? "another process" : holder;
}

absl::Status sign_lock(int descriptor, const fs::path& path) {
  char host[256] = "?";
  ::gethostname(host, sizeof host - 1);
  if (::ftruncate(descriptor, 0) != 0) return system_status(errno, "write", path);
  return write_all(descriptor, "process " + std::to_string(::getpid()) + " on host " + host + "\n",
                   path);
}

class PosixFileSystem final : public FileSystem {
 public:
  absl::Status create_directories(const fs::path& path) override {
    std::error_code error;
    fs::create_directories(path, error);
    if (!error && !fs::is_directory(path, error)) error = {ENOTDIR, std::generic_category()};
    return error ? system_status(error.value(), "create directory", path) : absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<WritableFile>> open(const fs::path& path, OpenMode mode) override {
    const int flags =
        O_WRONLY | O_CREAT | O_CLOEXEC | (mode == OpenMode::append ? O_APPEND : O_TRUNC);
    const int descriptor = ::open(path.c_str(), flags, 0666);
    if (descriptor < 0) return system_status(errno, "open for writing", path);
    return std::make_unique<PosixFile>(descriptor, path);
  }

  absl::Status rename(const fs::path& from, const fs::path& to) override {
    if (::rename(from.c_str(), to.c_str()) == 0) return absl::OkStatus();
    return system_status(errno, "rename " + from.string() + " to", to);
  }

  absl::Status remove(const fs::path& path) override {
    if (::remove(path.c_str()) == 0) return absl::OkStatus();
    return system_status(errno, "remove", path);
  }

  absl::Status remove_tree(const fs::path& path) override {
    std::error_code error;
    fs::remove_all(path, error);
    return error ? system_status(error.value(), "remove", path) : absl::OkStatus();
  }

  absl::Status sync_directory(const fs::path& path) override {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return system_status(errno, "open directory", path);
    // EINVAL: a file system that keeps directories in order by itself.
    const int error = ::fsync(descriptor) == 0 || errno == EINVAL ? 0 : errno;
    ::close(descriptor);
    return error == 0 ? absl::OkStatus() : system_status(error, "flush directory", path);
  }

  absl::StatusOr<std::vector<std::string>> list(const fs::path& path) override {
    std::vector<std::string> names;
    std::error_code error;
    for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
      names.push_back(it->path().filename().string());
    }
    if (error) return system_status(error.value(), "list", path);
    std::sort(names.begin(), names.end());
    return names;
  }

  bool exists(const fs::path& path) override {
    std::error_code error;
    return fs::exists(path, error);
  }

  absl::StatusOr<std::unique_ptr<FileLock>> lock(const fs::path& path) override {
    const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor < 0) return system_status(errno, "open for writing", path);
    if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
      const int error = errno;
      const std::string holder = holder_of(descriptor);
      ::close(descriptor);
      if (error != EWOULDBLOCK) return system_status(error, "lock", path);
      return absl::AlreadyExistsError(path.string() + " is held by " + holder);
    }
    auto lock = std::make_unique<PosixLock>(descriptor);
    if (const absl::Status status = sign_lock(descriptor, path); !status.ok()) return status;
    return lock;
  }
};

}  // namespace

FileSystem& posix_file_system() {
  static PosixFileSystem file_system;
  return file_system;
}

}  // namespace lockstep::files
