#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "lockstep/collectives/mpi/host_memory.h"
#include "lockstep/collectives/mpi/library.h"
#include "lockstep/collectives/work_state.h"

namespace lockstep::mpi {

// All-reduce of arrays that lie in memory which the ranks of a host share: each local rank sums its
// part of all their arrays, in the order of the ranks, straight into all of them. With several
// hosts, MPI reduces each part among the ranks that have it, one a host. Everything here runs on
// the worker's thread.
class HostReduce {
 public:
  // A collective call.
  HostReduce(Library& library, int group, int rank, int size);

  // A collective call. Null where the ranks have no memory to share; `reason` is not empty where
  // they could have.
  std::shared_ptr<HostMemory> allocate(size_t bytes, std::string* reason);

  // The place of a work's values in shared memory, equal on ranks that mean the same; -1 where they
  // lie elsewhere, or this is no work for it.
  int64_t place_of(const WorkState& work) const;

  // The ranks have agreed on the work, and on its place. `reduce_between_hosts(values, elements)`
  // sums one part over MPI. False when the work was given up meanwhile.
  bool all_reduce(const WorkState& work,
                  const std::function<void(int group, void*, int64_t)>& reduce_between_hosts,
                  const std::function<bool()>& advanced);

 private:
  struct alignas(64) Signal {
    std::atomic<uint64_t> arrived{0};
  };

  bool meet(const WorkState& work, const std::function<bool()>& advanced);
  Signal& signal(int local_rank) const;

  HostGroup hosts_;
  int between_ = -1;                     // the group of the ranks with this local rank
  std::shared_ptr<HostMemory> signals_;  // one Signal each, in the first rank's segment
  std::string refused_;                  // why there are none, though ranks share a host
  uint64_t meetings_ = 0;
  std::map<int64_t, std::weak_ptr<HostMemory>> memories_;  // by number of allocation
  int64_t allocations_ = 0;
};

}  // namespace lockstep::mpi
