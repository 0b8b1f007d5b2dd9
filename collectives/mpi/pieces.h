#pragma once

#include <functional>
#include <vector>

#include "lockstep/collectives/mpi/host_reduce.h"
#include "lockstep/collectives/mpi/library.h"
#include "lockstep/collectives/mpi/ring.h"
#include "lockstep/collectives/work_state.h"

namespace lockstep::mpi {

// Runs collectives as blocking MPI calls of about 1 MiB each, and all-reduces between hosts around
// a ring: one call for 100 MiB takes more than twice as long as its pieces, and finished pieces
// show that a slow collective is alive. All calls come from the thread that initialised the
// library.
class Pieces {
 public:
  explicit Pieces(Library& library) : library_(library), ring_(library) {}

  // First makes sure that all ranks call the same collective, since MPI would write beyond arrays
  // that differ in length. Calls `advanced` after each piece, and stops early when that returns
  // false. Throws Error when ranks differ (naming two of them) or MPI reports one.
  void run(int group, const WorkState& work, const std::function<bool()>& advanced);

  // Work on world arrays in shared memory goes through it. Null: none.
  void set_host(HostReduce* host) { host_ = host; }

  // Throws Error, which names two of them, where ranks call different collectives. `place`: where
  // its array lies in shared memory.
  void agree(int group, const WorkState& work, int64_t place = -1);
  void check(int code);

 private:
  // Values of one collective, or a part of them.
  struct Values {
    char* data;
    int64_t elements;
    DType dtype;
  };

  void all_reduce(int group, Values values, ReduceOp reduction, int size,
                  const std::function<bool()>& advanced);
  void all_reduce_half(int group, Values values, ReduceOp reduction);
  void reduce_scatter_half(int group, Values slice, ReduceOp reduction);
  void reduce_scatter(int group, const WorkState& work, const std::function<bool()>& advanced);
  void all_gather(int group, const WorkState& work, const std::function<bool()>& advanced);
  void broadcast(int group, const WorkState& work, const std::function<bool()>& advanced);

  Library& library_;
  Ring ring_;
  HostReduce* host_ = nullptr;
  std::vector<std::byte> packed_;    // pieces that cannot go from where they lie
  std::vector<std::byte> received_;  // one slice from every rank
};

}  // namespace lockstep::mpi
