#pragma once

#include <initializer_list>

#include "lockstep/runtime/error.h"

namespace lockstep {

enum class LogLevel { error, warning, info, debug };

// What LOCKSTEP_LOG_LEVEL asks for: warning unless set. Throws UsageError where it is none of the
// levels.
LogLevel log_level();

// One line on stderr, "lockstep: …", where the level asked for includes `level`. For what is no
// reason to end: that is an Error. Thread-safe.
void log(LogLevel level, std::initializer_list<Piece> pieces);

}  // namespace lockstep
