#pragma once

#include <string_view>

#include "lockstep/collectives/world.h"
#include "lockstep/runtime/device.h"

namespace lockstep::train {

// Where this rank computes, for `--device` cpu, cuda or auto; a GPU's library is open then. Ranks
// of one host that see the same GPUs take each its own: the local rank's; a rank that sees one GPU
// has it to itself (schedulers hand them out so). What auto finds is logged. Throws UsageError
// where cuda is asked for and cannot be had, telling what is missing.
Device choose_device(std::string_view wanted, const World& world);

}  // namespace lockstep::train
