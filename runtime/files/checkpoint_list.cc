#include <algorithm>

#include "lockstep/runtime/files/checkpoint.h"
#include "lockstep/runtime/files/checkpoint_paths.h"
#include "lockstep/runtime/files/system_status.h"

namespace lockstep::files {
namespace {

namespace fs = std::filesystem;
using internal::EntryKind;

struct Found {
  fs::path directory;
  int64_t step;
};

// From the oldest to the newest, whole or not.
absl::StatusOr<std::vector<Found>> find_checkpoints(const fs::path& checkpoints) {
  std::vector<Found> found;
  std::error_code error;
  if (!fs::exists(checkpoints, error) && !error) return found;
  // Listing is reading: any file system will do.
  const auto names = posix_file_system().list(checkpoints);
  if (!names.ok()) return names.status();
  for (const std::string& name : *names) {
    const auto entry = internal::parse_entry(name);
    if (!entry || entry->kind == EntryKind::partial) continue;
    // A replaced checkpoint counts while a killed commit left nothing in its place.
    const bool shadowed = entry->kind == EntryKind::replaced &&
                          fs::exists(checkpoints / checkpoint_name(entry->step), error);
    if (!shadowed) found.push_back({checkpoints / name, entry->step});
  }
  std::sort(found.begin(), found.end(),
            [](const Found& a, const Found& b) { return a.step < b.step; });
  return found;
}

}  // namespace

absl::StatusOr<std::vector<CheckpointInfo>> list_checkpoints(const fs::path& checkpoints) {
  const auto found = find_checkpoints(checkpoints);
  if (!found.ok()) return found.status();
  std::vector<CheckpointInfo> result;
  for (const Found& each : *found) {
    result.push_back({each.directory, each.step, Checkpoint::open(each.directory).status()});
  }
  return result;
}

absl::StatusOr<fs::path> latest_checkpoint(const fs::path& checkpoints) {
  const auto found = list_checkpoints(checkpoints);
  if (!found.ok()) return found.status();
  for (auto info = found->rbegin(); info != found->rend(); ++info) {
    if (info->status.ok()) return info->directory;
  }
  return absl::NotFoundError(checkpoints.string() + " holds no checkpoint" +
                             (found->empty() ? "" : " that is whole"));
}

absl::StatusOr<std::vector<fs::path>> prune_checkpoints(FileSystem& file_system,
                                                        const fs::path& checkpoints, int keep) {
  const auto found = find_checkpoints(checkpoints);
  if (!found.ok()) return found.status();
  std::vector<fs::path> deleted;
  int sound = 0;
  for (auto info = found->rbegin(); info != found->rend(); ++info) {
    // What is older than those that are kept goes unread.
    if (sound < std::max(keep, 1)) {
      const bool is_sound = Checkpoint::open(info->directory).status().ok();
      if (is_sound) ++sound;
      if (is_sound || sound == 0) continue;
    }
    // Renamed first: a deletion that is killed half-way must not leave half a checkpoint.
    const fs::path doomed = internal::partial_directory(checkpoints / checkpoint_name(info->step));
    absl::Status status = file_system.remove_tree(doomed);
    if (status.ok()) status = file_system.rename(info->directory, doomed);
    if (status.ok()) status = file_system.remove_tree(doomed);
    if (!status.ok()) return status;
    deleted.push_back(info->directory);
  }
  return deleted;
}

}  // namespace lockstep::files
