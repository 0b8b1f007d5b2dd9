#include "lockstep/runtime/log.h"

#include <cstdio>
#include <cstdlib>
#include <iterator>

namespace lockstep {

LogLevel log_level() {
  constexpr std::string_view kNames[] = {"error", "warning", "info", "debug"};
  const char* asked = std::getenv("LOCKSTEP_LOG_LEVEL");
  if (asked == nullptr || *asked == '\0') return LogLevel::warning;
  for (size_t level = 0; level < std::size(kNames); ++level) {
    if (asked == kNames[level]) return static_cast<LogLevel>(level);
  }
  fail_usage({"LOCKSTEP_LOG_LEVEL is '", asked, "': expected error, warning, info or debug"});
}

void log(LogLevel level, std::initializer_list<Piece> pieces) {
  if (level > log_level()) return;
  // One call: lines of several threads and ranks stay whole.
  std::fprintf(stderr, "lockstep: %s\n", concat(pieces).c_str());
}

}  // namespace lockstep
