#include "lockstep/runtime/files/write_behind_file.h"

#include <algorithm>
#include <utility>

namespace lockstep::files {
namespace {

constexpr size_t kPieceBytes = size_t{4} << 20;

}  // namespace

WriteBehindFile::~WriteBehindFile() {
  {
    const std::lock_guard lock(mutex_);
    waiting_.clear();
  }
  end_thread();
}

absl::Status WriteBehindFile::append(std::string_view bytes) {
  while (!bytes.empty()) {
    const size_t count = std::min(bytes.size(), kPieceBytes - filling_.size());
    // Not by doubling, which copies; nor all at once for a file that stays small.
    if (filling_.size() + count > kPieceBytes / 16) filling_.reserve(kPieceBytes);
    filling_.append(bytes.substr(0, count));
    bytes.remove_prefix(count);
    if (filling_.size() < kPieceBytes) break;
    if (const absl::Status status = hand_over(); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status WriteBehindFile::hand_over() {
  if (!thread_.joinable()) thread_ = std::thread([this] { write_pieces(); });
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return waiting_.empty(); });
  if (!status_.ok()) return status_;
  std::swap(filling_, waiting_);
  changed_.notify_all();
  return absl::OkStatus();
}

void WriteBehindFile::write_pieces() {
  std::string piece;
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return finished_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    piece.clear();
    std::swap(piece, waiting_);
    changed_.notify_all();
    if (!status_.ok()) continue;
    lock.unlock();
    const absl::Status status = file_->append(piece);
    lock.lock();
    status_.Update(status);
  }
}

void WriteBehindFile::end_thread() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    finished_ = true;
    changed_.notify_all();
  }
  thread_.join();
  finished_ = false;
}

absl::Status WriteBehindFile::finish() {
  end_thread();
  if (!status_.ok() || filling_.empty()) return status_;
  status_ = file_->append(filling_);
  filling_.clear();
  return status_;
}

absl::Status WriteBehindFile::sync() {
  const absl::Status status = finish();
  return status.ok() ? file_->sync() : status;
}

absl::Status WriteBehindFile::close() {
  const absl::Status status = finish();
  const absl::Status closed = file_->close();
  return status.ok() ? closed : status;
}

}  // namespace lockstep::files
