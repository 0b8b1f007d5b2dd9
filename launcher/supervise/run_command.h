#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "lockstep/launcher/flags/flags.h"

namespace lockstep::supervise {

// `lockstep run`: a program on N ranks of this machine.
class RunCommand {
 public:
  explicit RunCommand(flags::Command& program);

  bool chosen() const { return command_.chosen(); }
  // Returns the exit code. Problems go to stderr.
  int run();

 private:
  flags::Command& command_;
  int ranks_ = 1;
  std::string prefix_output_ = "on";
  std::string bind_ = "none";
  bool oversubscribe_ = false;
  bool dry_run_ = false;
  std::vector<std::string> environment_;
  std::filesystem::path log_directory_;
  std::chrono::milliseconds grace_{30'000};
  std::vector<std::string> program_;

  // Whether the ranks are told of one that is not this job's own.
  bool has_store() const;
  int start(const std::vector<std::string>& launcher, const std::vector<std::string>& program);
};

}  // namespace lockstep::supervise
