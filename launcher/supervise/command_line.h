#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace lockstep::supervise {

// The program a shell would start for `name`. NotFound or PermissionDenied names it, and says
// where a program of that name lies when it is one that the shell does not look at.
absl::StatusOr<std::filesystem::path> find_program(const std::string& name);

// The words as one would type them, quoted where they need it.
std::string quoted(std::span<const std::string> words);

struct RankLayout {
  int ranks = 1;
  bool bind_to_cores = false;
};

// "mpirun -q … -n N", ready for the program's words. InvalidArgument when there are fewer cores
// than ranks to bind; NotFound, saying how to install it, when there is no mpirun.
absl::StatusOr<std::vector<std::string>> mpirun_words(const RankLayout& layout);

// Cores (not hardware threads) that this process may use. At least 1.
int available_cores();

}  // namespace lockstep::supervise
