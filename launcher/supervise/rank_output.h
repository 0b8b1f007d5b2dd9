#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "lockstep/runtime/files/file_system.h"

namespace lockstep::supervise {

// Cuts a stream of bytes into whole lines.
class LineSplitter {
 public:
  // The lines that `bytes` completes, newlines included. What has no end after 64 KiB gets one.
  std::vector<std::string> feed(std::string_view bytes);
  // The unfinished line, ended.
  std::optional<std::string> finish();

 private:
  std::string pending_;
};

// The pipes through which ranks write, and what becomes of what they wrote: each line goes in whole
// to this process's stdout or stderr, with "[rank] " before it, and to the rank's log.
class RankOutput {
 public:
  struct Options {
    int ranks = 1;
    bool prefix = true;
    std::filesystem::path log_directory;  // empty: no logs
  };
  enum Stream { kOutput = 0, kError = 1 };

  static absl::StatusOr<std::unique_ptr<RankOutput>> create(const Options& options);
  ~RankOutput();

  // Descriptors of this process: where a rank writes.
  int write_end(int rank, Stream stream) const { return pipes_[index(rank, stream)].write_end; }
  // Becomes readable when a rank said something.
  std::vector<int> read_ends() const;
  // Passes on what is there now. Returns whether there was anything.
  bool pump();
  // Passes on the last lines, ended or not.
  void finish();

 private:
  struct Pipe {
    int read_end = -1;
    int write_end = -1;
    LineSplitter lines;
  };
  explicit RankOutput(const Options& options) : options_(options) {}

  static size_t index(int rank, Stream stream) { return static_cast<size_t>(2 * rank + stream); }
  absl::Status open_pipes();
  absl::Status open_logs();
  void pass_on(size_t pipe, const std::vector<std::string>& lines);

  Options options_;
  std::vector<Pipe> pipes_;
  std::vector<std::unique_ptr<files::WritableFile>> logs_;  // by rank; null after a failure
  bool broken_[2] = {};  // nobody reads this process's stdout or stderr any more
};

}  // namespace lockstep::supervise
