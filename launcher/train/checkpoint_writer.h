#pragma once

#include <filesystem>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "lockstep/runtime/array.h"
#include "lockstep/runtime/files/checkpoint.h"

namespace lockstep::train {

// Writes this rank's shard of a checkpoint from a copy of the values, by a thread of its own. The
// memory of the copy is kept for the next. For the thread that trains.
class CheckpointWriter {
 public:
  explicit CheckpointWriter(files::FileSystem& file_system) : file_system_(file_system) {}
  // As give_up().
  ~CheckpointWriter() = default;
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  struct Shard {
    std::filesystem::path directory;  // of the checkpoint
    int rank = 0;
    int world_size = 1;
    std::vector<files::Slice> slices;
  };
  // Returns when the values are copied. Not while another shard is being written.
  void start(Shard shard);
  // Whether finish() would return at once, and with a record.
  bool is_written() const;
  // What went wrong since start(); empty: nothing so far.
  std::string failure() const;
  // Waits. Throws Error where the shard could not be written.
  files::ShardRecord finish();
  // Ends what is being written, if anything is, without its record: waits for one piece of it, or
  // while the disk is flushed.
  void give_up();

 private:
  void take_copy(std::vector<files::Slice>& slices);

  files::FileSystem& file_system_;
  Array copy_;  // of all slices, one behind the other
  mutable std::mutex mutex_;
  std::optional<absl::StatusOr<files::ShardRecord>> outcome_;  // guarded by mutex_
  std::jthread thread_;  // the last: it ends before what it uses
};

}  // namespace lockstep::train
