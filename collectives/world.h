#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "lockstep/collectives/communicator.h"

namespace lockstep {

// How this process was launched.
struct World {
  int rank = 0;
  int size = 1;
  int local_rank = 0;  // among the ranks of this host
  int local_size = 1;
  std::string source = "alone";  // which variables said so: "RANK", "OMPI_COMM_WORLD_RANK", …
  bool mpi = false;              // started by an MPI launcher
  // Whether the environment said the local numbers. Where it did not, all ranks are taken to share
  // this host until find_local_place has asked them.
  bool local_rank_known = true;
  bool local_size_known = true;

  // Reads, in this order: RANK/WORLD_SIZE/LOCAL_RANK, OMPI_COMM_WORLD_*, PMIX/PMI, SLURM_* inside a
  // step that srun launched; none: a world of one. Throws UsageError where the first two disagree
  // or one contradicts itself, showing both. `lookup` stands in for getenv in tests.
  static World from_env();
  static World from(const std::function<const char*(const char*)>& lookup);
};

// single for a world of one, MPI for a CPU world of several, NCCL for one of CUDA devices. CPUs
// with bare RANK variables and no MPI launcher: a UsageError that says to use mpirun or `lockstep
// run`. Devices meet in the store at LOCKSTEP_STORE (host:port, with LOCKSTEP_STORE_TOKEN), or in
// one that rank 0 hosts at MASTER_ADDR and MASTER_PORT; neither is there: a UsageError.
// `timeout` (zero: none) is how long devices wait for each other at the start, and the
// communicator's from then on. MPI's start may take ten times as long, and ten minutes at least.
std::unique_ptr<Communicator> make_communicator(
    const World& world, Device device = {},
    std::chrono::milliseconds timeout = std::chrono::minutes(10));

// Finds the local numbers that are not known: ranks of one host have its name, its network and its
// kernel in common. A collective call, also of ranks that know theirs.
void find_local_place(Communicator& communicator, World& world);
// The same, where the rank i runs on hosts[i].
void find_local_place(std::span<const std::string> hosts, World& world);

}  // namespace lockstep
