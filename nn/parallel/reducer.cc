#include "lockstep/nn/parallel/reducer.h"

#include <algorithm>

namespace lockstep::nn {

Reducer::Reducer(std::vector<int> bucket_of, int buckets, Launch launch)
    : launch_(std::move(launch)), expected_(bucket_of.size(), 1), fired_(bucket_of.size(), 0) {
  regroup(std::move(bucket_of), buckets);
}

void Reducer::regroup(std::vector<int> bucket_of, int buckets) {
  LOCKSTEP_CHECK(next_ == 0 && order_.empty(), "buckets are regrouped in the middle of a step");
  bucket_of_ = std::move(bucket_of);
  waiting_.resize(static_cast<size_t>(buckets));
  expected_.resize(bucket_of_.size(), 1);
  fired_.resize(bucket_of_.size(), 0);
  count_waiting();
}

void Reducer::count_waiting() {
  std::fill(waiting_.begin(), waiting_.end(), 0);
  for (size_t i = 0; i < bucket_of_.size(); ++i) {
    if (expected_[i] > 0) ++waiting_[bucket_of_[i]];
  }
}

void Reducer::fired(int member) {
  if (++fired_[member] == 1) order_.push_back(member);
  if (fired_[member] != expected_[member]) return;
  --waiting_[bucket_of_[member]];
  launch_full();
}

// A bucket whose members were all unused waits for the one before it like any other, so that
// nothing leaves before backward has begun.
void Reducer::launch_full() {
  while (next_ < static_cast<int>(waiting_.size()) && waiting_[next_] == 0) {
    in_flight_.push_back(launch_(next_++));
  }
}

void Reducer::flush() {
  std::fill(waiting_.begin(), waiting_.end(), 0);
  launch_full();
  for (const Work& work : in_flight_) work.wait();
  in_flight_.clear();
}

void Reducer::next_step() {
  // A rank without samples says nothing of the next step.
  if (!order_.empty()) expected_ = fired_;
  std::fill(fired_.begin(), fired_.end(), 0);
  order_.clear();
  next_ = 0;
  count_waiting();
}

}  // namespace lockstep::nn
