#pragma once

#include <sys/types.h>

#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace lockstep::supervise {

struct ChildOptions {
  std::vector<std::string> words;        // the first is the program's path
  std::vector<std::string> environment;  // NAME=VALUE, added to this process's
  int output = -1;                       // descriptors for stdout and stderr; -1: this process's
  int error = -1;
};

// Starts a program in a process group of its own, with signals as a program expects them, that is
// asked to end should this thread die.
absl::StatusOr<pid_t> start_child(const ChildOptions& options);

// Makes this process the one that inherits the children of its children, so that none escapes.
void adopt_orphans();

// Kills every process below this one but `spare`.
void kill_descendants(pid_t spare);

}  // namespace lockstep::supervise
