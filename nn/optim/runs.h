#pragma once

#include <vector>

#include "lockstep/runtime/kernels.h"
#include "lockstep/runtime/storage.h"

namespace lockstep::optim {

// An update of one parameter, and the memory that it lies in. One without elements updates nothing
// but parts its neighbours.
struct RunCandidate {
  UpdateRun run;
  int op = -1;
  const Storage* storage = nullptr;
};

// Joins candidates that are neighbours in memory and do the same; those without elements are left
// out. In the order of their addresses.
std::vector<RunCandidate> joined_runs(std::vector<RunCandidate> candidates);

}  // namespace lockstep::optim
