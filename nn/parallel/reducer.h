#pragma once

#include <vector>

#include "lockstep/collectives/communicator.h"
#include "lockstep/runtime/array.h"

namespace lockstep::nn {

// Averages flat buckets over the ranks as they become full. Knows readiness and order only: arrays
// and indices, neither autograd nor modules. A bucket leaves when every member is ready and every
// bucket before it has left, so all ranks make the same collectives in the same order.
class Reducer {
 public:
  // `bucket_of[i]` is the bucket of member i. Members of one bucket may come in any order.
  Reducer(Communicator& communicator, std::vector<Array> buckets, std::vector<int> bucket_of);

  // Member i's values are final for this step. Marking one twice is an error.
  void ready(int member);
  bool is_ready(int member) const { return ready_[member]; }
  // Waits for every bucket, all of whose members are ready, and begins the next step.
  void finish();

 private:
  void start_full_buckets();

  Communicator& communicator_;
  std::vector<Array> buckets_;
  std::vector<int> bucket_of_;
  std::vector<int> members_;  // of each bucket
  std::vector<int> waiting_;  // members of each bucket not yet ready
  std::vector<bool> ready_;
  int next_ = 0;  // first bucket that has not left
  std::vector<Work> in_flight_;
};

}  // namespace lockstep::nn
