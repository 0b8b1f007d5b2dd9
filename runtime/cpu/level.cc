#include "lockstep/runtime/cpu/level.h"

#include <cstdlib>
#include <string_view>

#include "lockstep/runtime/error.h"

namespace lockstep::cpu {

namespace {
constexpr Level kLevels[] = {Level::v4, Level::v3, Level::v2};
}  // namespace

bool supported(Level level) {
  switch (level) {
    case Level::v2: return __builtin_cpu_supports("x86-64-v2");
    case Level::v3: return __builtin_cpu_supports("x86-64-v3");
    case Level::v4: return __builtin_cpu_supports("x86-64-v4");
  }
  return false;
}

const Loops& loops_of(Level level) {
  switch (level) {
    case Level::v3: return kLoopsV3;
    case Level::v4: return kLoopsV4;
    default: return kLoopsV2;
  }
}

const char* name_of(Level level) {
  switch (level) {
    case Level::v3: return "v3";
    case Level::v4: return "v4";
    default: return "v2";
  }
}

Level chosen_level() {
  const char* asked = std::getenv("LOCKSTEP_ISA");
  if (asked == nullptr || *asked == '\0') {
    for (Level level : kLevels) {
      if (supported(level)) return level;
    }
    fail({"this processor lacks the x86-64-v2 instructions (SSE4.2, POPCNT) that Lockstep needs"});
  }
  for (Level level : kLevels) {
    if (std::string_view(asked) != name_of(level)) continue;
    if (!supported(level)) {
      fail_usage({"LOCKSTEP_ISA asks for '", asked, "', which this processor lacks"});
    }
    return level;
  }
  fail_usage({"LOCKSTEP_ISA is '", asked, "': expected v2, v3 or v4"});
}

}  // namespace lockstep::cpu
