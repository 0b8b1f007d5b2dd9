#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "lockstep/collectives/world.h"
#include "lockstep/runtime/device.h"

namespace lockstep::train {

// Where this rank computes, for `--device` cpu, cuda or auto; a GPU's library is open then. Ranks
// of one host that see the same GPUs take each its own: the local rank's; a rank that sees one GPU
// has it to itself (schedulers hand them out so). What auto finds is logged. Throws UsageError
// where cuda is asked for and cannot be had, telling what is missing.
Device choose_device(std::string_view wanted, const World& world);

// Why `auto` leaves the GPUs of this host alone in a world of several ranks, of which each host
// shows its ranks `gpus`; empty: it does not. The ranks of a host come to the same answer. `lookup`
// is getenv.
std::string reason_for_cpu(const World& world, int gpus,
                           const std::function<const char*(const char*)>& lookup);

}  // namespace lockstep::train
