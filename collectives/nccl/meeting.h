#pragma once

#include <chrono>
#include <functional>
#include <memory>

#include "lockstep/collectives/nccl/library.h"
#include "lockstep/collectives/store/store.h"
#include "lockstep/collectives/store/tcp_store.h"
#include "lockstep/collectives/world.h"

namespace lockstep::nccl {

// Where the ranks of a job meet before they have a communicator.
struct JobStore {
  std::unique_ptr<TcpStoreServer> host;  // on rank 0, where it hosts the store
  std::unique_ptr<Store> store;
};
// As make_communicator(world, device, timeout) says.
JobStore connect_job_store(const World& world, std::chrono::milliseconds timeout);

// Rank 0 makes the id of a new world and all get it. Returns when all ranks have come; throws Error
// naming those that have not after `timeout` (zero: never). Others may have met in the store
// before, or have died in the attempt: every rank draws a random number, which its answer is for.
UniqueId meet(Store& store, int rank, int size, const std::function<UniqueId()>& make_id,
              std::chrono::milliseconds timeout);

}  // namespace lockstep::nccl
