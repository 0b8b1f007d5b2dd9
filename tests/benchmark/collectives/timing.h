#pragma once

#include "benchmark/collectives/checks.h"

namespace lockstep::benchmark {

// Of one call, on the slowest rank.
struct Timing {
  double seconds = 0;  // calls queued one behind the other until the device is done, of each
  double own = 0;      // as the transport counts (Work::duration)
};
// A collective call.
Timing time_calls(const Case& of, Communicator& communicator, const Memory& memory);

// Bytes a second and, as nccl-tests counts, what they take of a link: the time that a perfect ring
// would need does not depend on the number of ranks.
struct Bandwidth {
  double algorithm = 0, bus = 0;
};
Bandwidth bandwidth(const Case& of, int ranks, double seconds);

}  // namespace lockstep::benchmark
