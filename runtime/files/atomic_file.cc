#include "lockstep/runtime/files/file_system.h"
#include "lockstep/runtime/files/write_behind_file.h"

namespace lockstep::files {
namespace {

std::filesystem::path temporary_name(const std::filesystem::path& path) {
  return path.string() + ".tmp";
}

std::filesystem::path directory_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

}  // namespace

absl::StatusOr<AtomicFile> AtomicFile::create(FileSystem& file_system, std::filesystem::path path) {
  // A rename would put a file in the place of a device or a pipe.
  std::error_code error;
  const auto there = std::filesystem::status(path, error);
  if (std::filesystem::exists(there) && !std::filesystem::is_regular_file(there)) {
    return absl::FailedPreconditionError(path.string() + " is no regular file");
  }
  auto file = file_system.open(temporary_name(path), OpenMode::truncate);
  if (!file.ok()) return file.status();
  return AtomicFile(file_system, std::move(path),
                    std::make_unique<WriteBehindFile>(*std::move(file)));
}

AtomicFile::~AtomicFile() {
  if (file_ == nullptr) return;
  file_.reset();
  // Nothing more can be done about a failure here: the caller already has the one that matters.
  file_system_->remove(temporary_name(path_)).IgnoreError();
}

absl::Status AtomicFile::commit() {
  if (const absl::Status status = file_->sync(); !status.ok()) return status;
  if (const absl::Status status = file_->close(); !status.ok()) return status;
  const absl::Status status = file_system_->rename(temporary_name(path_), path_);
  if (!status.ok()) return status;
  file_.reset();
  return file_system_->sync_directory(directory_of(path_));
}

absl::Status write_file_atomically(FileSystem& file_system, const std::filesystem::path& path,
                                   std::string_view bytes) {
  auto file = AtomicFile::create(file_system, path);
  if (!file.ok()) return file.status();
  if (const absl::Status status = file->append(bytes); !status.ok()) return status;
  return file->commit();
}

}  // namespace lockstep::files
