#pragma once

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/runtime/files/file_system.h"

namespace lockstep::testing {

// A file system over the real one that fails when it is told to. Operations are counted from 0; a
// failing append first writes half of its bytes, as a disk that fills up does. Nothing is flushed:
// the machine itself does not crash.
class FaultyFileSystem final : public files::FileSystem {
 public:
  static constexpr int kNever = std::numeric_limits<int>::max();

  enum class Fault {
    one_operation,  // number `at` fails, those after it work
    crash,          // number `at` and all after it fail: nothing more reaches the disk
    disk_full,      // from number `at` on, opening and writing fail; the rest works
  };

  FaultyFileSystem() = default;
  FaultyFileSystem(Fault fault, int at) : fault_(fault), at_(at) {}

  // Called before each operation, as it will be in the log.
  void set_before(std::function<void(const std::string&)> before) { before_ = std::move(before); }

  int operations() const {
    const std::lock_guard lock(mutex_);
    return static_cast<int>(log_.size());
  }
  // "open a.tmp", "append a.tmp", "rename a.tmp a", …: file names without their directories. For
  // when nothing is being written.
  const std::vector<std::string>& log() const { return log_; }

  absl::Status create_directories(const std::filesystem::path& path) override {
    return fails("create_directories", path, true) ? error(path) : real_.create_directories(path);
  }
  absl::StatusOr<std::unique_ptr<files::WritableFile>> open(const std::filesystem::path& path,
                                                            files::OpenMode mode) override {
    if (fails("open", path, true)) return error(path);
    auto file = real_.open(path, mode);
    if (!file.ok()) return file.status();
    return std::make_unique<File>(*this, *std::move(file), path);
  }
  absl::Status rename(const std::filesystem::path& from, const std::filesystem::path& to) override {
    const bool failing = fails("rename " + from.filename().string() + " to", to, false);
    return failing ? error(to) : real_.rename(from, to);
  }
  absl::Status remove(const std::filesystem::path& path) override {
    return fails("remove", path, false) ? error(path) : real_.remove(path);
  }
  absl::Status remove_tree(const std::filesystem::path& path) override {
    return fails("remove_tree", path, false) ? error(path) : real_.remove_tree(path);
  }
  absl::Status sync_directory(const std::filesystem::path& path) override {
    return fails("sync_directory", path, false) ? error(path) : absl::OkStatus();
  }
  absl::StatusOr<std::vector<std::string>> list(const std::filesystem::path& path) override {
    if (fails("list", path, false)) return error(path);
    return real_.list(path);
  }
  bool exists(const std::filesystem::path& path) override { return real_.exists(path); }
  absl::StatusOr<std::unique_ptr<files::FileLock>> lock(
      const std::filesystem::path& path) override {
    if (fails("lock", path, true)) return error(path);
    return real_.lock(path);
  }

 private:
  class File final : public files::WritableFile {
   public:
    File(FaultyFileSystem& owner, std::unique_ptr<files::WritableFile> real,
         std::filesystem::path path)
        : owner_(owner), real_(std::move(real)), path_(std::move(path)) {}

    absl::Status append(std::string_view bytes) override {
      if (!owner_.fails("append", path_, true)) return real_->append(bytes);
      if (!owner_.crashed()) real_->append(bytes.substr(0, bytes.size() / 2)).IgnoreError();
      return owner_.error(path_);
    }
    absl::Status sync() override {
      return owner_.fails("sync", path_, true) ? owner_.error(path_) : absl::OkStatus();
    }
    absl::Status close() override {
      const absl::Status status = real_->close();
      return owner_.fails("close", path_, false) ? owner_.error(path_) : status;
    }

   private:
    FaultyFileSystem& owner_;
    std::unique_ptr<files::WritableFile> real_;
    std::filesystem::path path_;
  };

  bool crashed() const { return fault_ == Fault::crash && operations() > at_ + 1; }
  bool fails(const std::string& operation, const std::filesystem::path& path, bool needs_space) {
    const std::string line = operation + " " + path.filename().string();
    if (before_) before_(line);
    const std::lock_guard lock(mutex_);
    const int number = static_cast<int>(log_.size());
    log_.push_back(line);
    switch (fault_) {
      case Fault::one_operation: return number == at_;
      case Fault::crash: return number >= at_;
      case Fault::disk_full: return number >= at_ && needs_space;
    }
    return false;
  }
  absl::Status error(const std::filesystem::path& path) const {
    return absl::ResourceExhaustedError("injected: cannot write " + path.string());
  }

  files::FileSystem& real_ = files::posix_file_system();
  Fault fault_ = Fault::one_operation;
  int at_ = kNever;
  std::function<void(const std::string&)> before_;
  mutable std::mutex mutex_;
  std::vector<std::string> log_;  // guarded by mutex_
};

}  // namespace lockstep::testing
