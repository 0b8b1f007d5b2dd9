#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "lockstep/runtime/files/file_system.h"

namespace lockstep::train {

// The place of everything that a run writes. Rank 0 holds its lock: two live runs cannot share one.
// Without a path nothing is written.
class RunDirectory {
 public:
  RunDirectory(files::FileSystem& file_system, std::filesystem::path path, int rank)
      : file_system_(file_system), path_(std::move(path)), rank_(rank) {}

  // Rank 0 creates it and takes the lock. Throws Error (UsageError when a live run holds it).
  void open();

  bool exists() const { return !path_.empty(); }
  const std::filesystem::path& path() const { return path_; }
  // Empty without a run directory.
  std::filesystem::path checkpoints() const {
    return exists() ? path_ / "checkpoints" : std::filesystem::path();
  }
  std::filesystem::path metrics() const { return path_ / "metrics.jsonl"; }

  // Rank 0: puts the checkpoints and metrics of an earlier run aside under a numbered name, so that
  // a new run starts clean and nothing is lost.
  void set_aside_earlier_run();
  // Rank 0: the same for the checkpoints of later steps, when a run goes on from an earlier one.
  void set_aside_checkpoints_after(int64_t step);
  // Rank 0.
  void write_config(std::string_view json);
  // log/rank-N.log: one line with the time.
  void log(std::string_view line);

 private:
  std::string unused_suffix() const;

  files::FileSystem& file_system_;
  std::filesystem::path path_;
  int rank_;
  std::unique_ptr<files::FileLock> lock_;
  std::unique_ptr<files::WritableFile> log_;
};

}  // namespace lockstep::train
