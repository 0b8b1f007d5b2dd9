#pragma once

#include <sys/types.h>

#include <cstdint>
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

// Lets this process open `count` descriptors, or what its hard limit allows. Returns its soft limit
// before, or 0 where that was enough.
uint64_t raise_descriptor_limit(uint64_t count);
void set_descriptor_limit(uint64_t soft);

// Makes this process the one that inherits the children of its children, so that none escapes.
void adopt_orphans();

// Whether a process handles, ignores or holds back a signal, or is none any more: what it has not
// seen to yet ends it.
bool has_seen_to(int signal, pid_t process);

// Kills every process below this one but `spare`.
void kill_descendants(pid_t spare);

}  // namespace lockstep::supervise
