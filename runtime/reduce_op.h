#pragma once

#include <cstdint>

namespace lockstep {

// How many values become one: of an array's dimension, or of an element on all ranks.
enum class ReduceOp : uint8_t { sum, mean, max, min };

}  // namespace lockstep
