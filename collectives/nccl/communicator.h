#pragma once

#include <chrono>
#include <memory>

#include "lockstep/collectives/communicator.h"
#include "lockstep/collectives/nccl/worker.h"

namespace lockstep::nccl {

// make_nccl_communicator, with the library and the stream given.
std::unique_ptr<Communicator> make_communicator(Library& library, Store& store, const Place& place,
                                                std::chrono::milliseconds timeout);

}  // namespace lockstep::nccl
