#include "lockstep/nn/parallel/reducer.h"

#include <algorithm>

namespace lockstep::nn {

Reducer::Reducer(Communicator& communicator, std::vector<Array> buckets, std::vector<int> bucket_of)
    : communicator_(communicator),
      buckets_(std::move(buckets)),
      bucket_of_(std::move(bucket_of)),
      members_(buckets_.size()),
      ready_(bucket_of_.size()) {
  for (int bucket : bucket_of_) ++members_[bucket];
  waiting_ = members_;
}

void Reducer::ready(int member) {
  LOCKSTEP_CHECK(!ready_[member], "gradient ", member,
                 " became ready twice in one step: a second backward after the last needs no_sync");
  ready_[member] = true;
  --waiting_[bucket_of_[member]];
  start_full_buckets();
}

void Reducer::start_full_buckets() {
  while (next_ < static_cast<int>(buckets_.size()) && waiting_[next_] == 0) {
    in_flight_.push_back(communicator_.all_reduce(buckets_[next_], Reduction::mean,
                                                  {.what = "gradients", .bucket = next_}));
    ++next_;
  }
}

void Reducer::finish() {
  LOCKSTEP_CHECK(next_ == static_cast<int>(buckets_.size()), "bucket ", next_, " of ",
                 buckets_.size(), " is not full: ", waiting_[next_], " gradients are missing");
  for (const Work& work : in_flight_) work.wait();
  in_flight_.clear();
  waiting_ = members_;
  std::fill(ready_.begin(), ready_.end(), false);
  next_ = 0;
}

}  // namespace lockstep::nn
