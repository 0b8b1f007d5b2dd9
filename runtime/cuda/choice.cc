#include "lockstep/runtime/cuda/choice.h"

#include <mutex>
#include <set>

#include "lockstep/runtime/log.h"

namespace lockstep::cuda {

void note_own_kernel(const std::string& problem) {
  static std::mutex mutex;
  static std::set<std::string>& noted = *new std::set<std::string>;
  const std::lock_guard lock(mutex);
  if (!noted.insert(problem).second) return;
  log(LogLevel::info, {problem, ": by our own kernel, cuDNN does not take it"});
}

}  // namespace lockstep::cuda
