#pragma once

#include <poll.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "lockstep/launcher/supervise/output_queue.h"
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
// to this process's stdout or stderr, with "[rank] " before it, and to the rank's log. Nothing here
// waits for who reads those: lines queue, and while too many do, ranks are not read.
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
  // What to wait for before pump() and flush() have something to do.
  std::vector<pollfd> awaited() const;
  // Takes what ranks said. Returns whether there was anything.
  bool pump();
  // Takes the last lines, ended or not.
  void end_lines();
  // A line of this process's own, for stderr.
  void say(const std::string& line);

  // Writes what can be written now. Returns whether that was anything.
  bool flush();
  bool pending() const;
  // From here on ranks never wait for who reads: what is too much is dropped.
  void never_wait() { never_wait_ = true; }
  void drop_pending();
  uint64_t dropped_bytes() const { return dropped_bytes_; }

 private:
  struct Pipe {
    int read_end = -1;
    int write_end = -1;
    LineSplitter lines;
  };
  explicit RankOutput(const Options& options);

  static size_t index(int rank, Stream stream) { return static_cast<size_t>(2 * rank + stream); }
  absl::Status open_pipes();
  absl::Status open_logs();
  OutputQueue& queue_of(size_t pipe) const { return *streams_[pipe % 2]; }
  bool is_read(size_t pipe) const;
  void pass_on(size_t pipe, const std::vector<std::string>& lines);

  Options options_;
  std::vector<Pipe> pipes_;
  std::vector<std::unique_ptr<files::WritableFile>> logs_;  // by rank; null after a failure
  std::vector<std::unique_ptr<OutputQueue>> queues_;
  OutputQueue* streams_[2];  // one queue where stdout and stderr are one file
  bool never_wait_ = false;
  uint64_t dropped_bytes_ = 0;
};

}  // namespace lockstep::supervise
