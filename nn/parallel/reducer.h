#pragma once

#include <functional>
#include <vector>

#include "lockstep/collectives/communicator.h"
#include "lockstep/runtime/array.h"

namespace lockstep::nn {

// Averages flat buckets over the ranks as they become full. Knows readiness and order only: members
// and buckets by index, neither autograd nor modules nor what a bucket holds. A bucket leaves when
// each of its members has fired as often as in the step before, and every bucket before it has
// left: so all ranks make the same collectives in the same order, whatever each of them used, and
// what was unused holds nothing back. A member that fires after its bucket has left is late: the
// owner keeps such values apart.
class Reducer {
 public:
  // `launch(bucket)` starts the reduction of one bucket.
  using Launch = std::function<Work(int bucket)>;
  Reducer(std::vector<int> bucket_of, int buckets, Launch launch);

  // One backward pass has made member i's values.
  void fired(int member);
  // Nothing may be written to the bucket's memory any more in this step.
  bool has_left(int bucket) const { return bucket < next_; }
  int bucket_of(int member) const { return bucket_of_[member]; }
  // Members in the order in which they fired first in this step.
  const std::vector<int>& order() const { return order_; }

  // Sends what has not left, and waits for all of it.
  void flush();
  // Begins the next step, in which members are expected to fire as often as in this one, unless
  // none has fired.
  void next_step();

  // Members of other buckets, in the same order: between steps.
  void regroup(std::vector<int> bucket_of, int buckets);

 private:
  void count_waiting();
  void launch_full();

  Launch launch_;
  std::vector<int> bucket_of_;
  std::vector<int> expected_;  // times that each member fires in a step
  std::vector<int> fired_;
  std::vector<int> waiting_;  // of each bucket: members that have not fired often enough
  std::vector<int> order_;
  int next_ = 0;  // first bucket that has not left
  std::vector<Work> in_flight_;
};

}  // namespace lockstep::nn
