#include "lockstep/runtime/files/system_status.h"

#include <cerrno>
#include <string>
#include <system_error>

namespace lockstep::files {
namespace {

std::string_view meaning_of(int error) {
  switch (error) {
    case ENOSPC: return " (the disk is full)";
    case EDQUOT: return " (this user's disk quota is used up)";
    case EROFS: return " (the file system is mounted read-only)";
    case EACCES:
    case EPERM: return " (this user may not do that there)";
    case EIO: return " (the disk or its connection is failing)";
    case EMFILE:
    case ENFILE: return " (see ulimit -n)";
    default: return "";
  }
}

}  // namespace

absl::Status system_status(int error, std::string_view doing, const std::filesystem::path& path) {
  std::string message = "cannot ";
  message.append(doing).append(" ").append(path.string()).append(": ");
  message.append(std::generic_category().message(error)).append(meaning_of(error));
  return absl::Status(absl::ErrnoToStatusCode(error), message);
}

absl::Status annotate(const absl::Status& status, std::string_view prefix) {
  if (status.ok()) return status;
  std::string message(prefix);
  message.append(": ").append(status.message().data(), status.message().size());
  return absl::Status(status.code(), message);
}

}  // namespace lockstep::files
