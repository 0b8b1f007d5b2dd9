#pragma once

#include "lockstep/collectives/nccl/library.h"

namespace lockstep::nccl {

// NCCL for the CUDA device of that number, from the CUDA library; each call makes one, for as long
// as the process lives. Throws Error that says what is missing.
Library& open_library(int device);

}  // namespace lockstep::nccl
