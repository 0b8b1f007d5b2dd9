#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "lockstep/runtime/error.h"

namespace lockstep {

// A collective that failed, came late, or did not match. The message names the collective, its
// sequence number, the bucket where there is one, this rank, and the ranks not seen where known.
class CollectiveError : public Error {
 public:
  using Error::Error;
};

struct WorkState;  // collectives/work_state.h

// A started collective; a cheap handle. It keeps its arrays alive until it is done, so a Work may
// be dropped, but then nobody learns of its failure before the next collective.
class Work {
 public:
  Work() = default;  // done
  explicit Work(std::shared_ptr<WorkState> state) : state_(std::move(state)) {}

  // Done when the work that `next` returns is. `next` runs once, when this work is done and
  // somebody waits for the result, on the thread that waits.
  Work then(std::function<Work()> next) const;

  // On a device the arrays may be used before, by what is queued after `wait`.
  bool done() const;
  // Blocks until the result is in the arrays. Throws CollectiveError if the collective failed or
  // made no progress for the deadline. Of arrays on a device it blocks until the device's compute
  // stream waits for the result. What fails later than that ends the stream's wait with wrong
  // values, and is thrown by this work and all later ones of the communicator when they are waited
  // for: what was read back meanwhile holds if a later barrier, or collective of arrays on the
  // host, ends well.
  void wait() const;
  // Time that the collective itself took, once done (not the time it waited in line).
  std::chrono::nanoseconds duration() const;

 private:
  struct Chain;

  std::shared_ptr<WorkState> state_;
  std::shared_ptr<Chain> chain_;  // instead of a state: of a result of then()
};

}  // namespace lockstep
