#pragma once

namespace lockstep {

// What an op does to its result, in the same pass over it.
enum class Activation { none, relu };

}  // namespace lockstep
