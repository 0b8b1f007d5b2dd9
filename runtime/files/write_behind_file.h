#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "lockstep/runtime/files/file_system.h"

namespace lockstep::files {

// Appends to another file in pieces of 4 MiB, by a thread of its own: the next piece is made ready
// while one is written. What has failed is told by a later append, or by sync. A file of one piece
// has no thread. For one thread at a time.
class WriteBehindFile final : public WritableFile {
 public:
  explicit WriteBehindFile(std::unique_ptr<WritableFile> file) : file_(std::move(file)) {}
  // What was not synced is dropped, but for the piece that is being written.
  ~WriteBehindFile() override;

  absl::Status append(std::string_view bytes) override;
  absl::Status sync() override;
  absl::Status close() override;

 private:
  // Waits until the thread has taken the piece before this.
  absl::Status hand_over();
  void write_pieces();
  void end_thread();
  // Writes what is left and ends the thread.
  absl::Status finish();

  std::unique_ptr<WritableFile> file_;  // the thread's while that runs
  std::string filling_;
  std::thread thread_;
  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::string waiting_;    // a piece to be written
  bool finished_ = false;  // no more come
  absl::Status status_;
};

}  // namespace lockstep::files
