#pragma once

#include <string>

namespace lockstep::cuda {

// Logs, at info level, that our own kernel computes what `problem` names because the library does
// not; the first time in the process that it is that problem.
void note_own_kernel(const std::string& problem);

}  // namespace lockstep::cuda
