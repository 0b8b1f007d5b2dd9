#pragma once

#include "lockstep/runtime/cpu/loops.h"

namespace lockstep::cpu {

// The x86-64 instruction levels that the loops are compiled for.
enum class Level { v2, v3, v4 };

bool supported(Level level);
const Loops& loops_of(Level level);
const char* name_of(Level level);

// The highest level of this processor, or the one that LOCKSTEP_ISA (v2, v3, v4) asks for. Throws
// UsageError for a value that is none, or that the processor lacks.
Level chosen_level();

}  // namespace lockstep::cpu
