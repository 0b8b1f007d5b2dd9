#pragma once

#include <filesystem>
#include <iosfwd>

#include "lockstep/launcher/flags/flags.h"

namespace lockstep::supervise {

// `lockstep checkpoint list|show|verify|hash|diff|export|prune`. Each takes a checkpoint's
// directory, or the directory of several, and then means the newest.
class CheckpointCommand {
 public:
  explicit CheckpointCommand(flags::Command& program);

  bool chosen() const { return command_.chosen(); }
  // Returns the exit code.
  int run(std::ostream& out, std::ostream& error);

 private:
  flags::Command& command_;
  flags::Command& list_;
  flags::Command& show_;
  flags::Command& verify_;
  flags::Command& hash_;
  flags::Command& diff_;
  flags::Command& export_;
  flags::Command& prune_;
  std::filesystem::path directory_;
  std::filesystem::path other_;
  std::filesystem::path to_;
  int keep_ = 0;
};

}  // namespace lockstep::supervise
