// How parameters come into buckets after the first step.
#include <algorithm>

#include "lockstep/nn/parallel/data_parallel.h"
#include "lockstep/nn/parallel/same_model.h"
#include "lockstep/runtime/log.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::nn {

std::vector<int> DistributedDataParallel::memory_order() const {
  std::vector<int> order;
  for (const FlatLayout::Bucket& bucket : layout_.buckets) {
    order.insert(order.end(), bucket.members.begin(), bucket.members.end());
  }
  return order;
}

FlatLayout DistributedDataParallel::packed(const std::vector<int>& order) {
  std::vector<Shape> shapes;
  for (size_t i = 0; i < members_.size(); ++i) {
    shapes.push_back(parameter(static_cast<int>(i)).shape());
  }
  const DType dtype = members_.empty() ? options_.placement.dtype : parameter(0).dtype();
  FlatLayout layout = FlatLayout::pack(shapes, order, dtype, options_.bucket_sizes);
  if (communicator_.rank() == 0) {
    log(LogLevel::debug, {layout.elements, " gradients of ", members_.size(), " parameters lie in ",
                          layout.buckets.size(), " buckets"});
  }
  return layout;
}

void DistributedDataParallel::regroup() {
  reducer_->regroup(sharding_ ? sharding_->bucket_of() : layout_.bucket_of,
                    static_cast<int>(bucket_count()));
  mark_ends();
}

// A replayed pass sends a bucket when the last gradient of it is complete.
void DistributedDataParallel::mark_ends() {
  for (const FlatLayout::Bucket& bucket : layout_.buckets) {
    for (const int member : bucket.members) {
      parameter(member).leaf().set_marked(member == bucket.members.back());
    }
  }
}

void DistributedDataParallel::set_bucket_sizes(const BucketSizes& sizes) {
  LOCKSTEP_CHECK(!sharding_, "set_bucket_sizes: the slices of sharded parameters stay as they are");
  options_.bucket_sizes = sizes;
  layout_ = packed(memory_order());
  regroup();
}

// From the first step on whose buckets are the final ones.
void DistributedDataParallel::tune(double seconds) {
  if (!options_.tune_bucket_sizes || !packed_) return;
  if (!tuner_) {
    tuner_.emplace(mb_of(values_.bytes()), bucket_mb());
  } else if (tuner_->done()) {
    return;
  } else {
    tuner_->add(seconds);
  }
  BucketSizes sizes = options_.bucket_sizes;
  sizes.other_mb = tuner_->size_mb();
  set_bucket_sizes(sizes);
}

// Others may have used other parameters. -1: no more. On the host, wherever the gradients are.
std::vector<int> DistributedDataParallel::order_of_rank_zero(const std::vector<int>& observed) {
  const Array shared = Array::full({static_cast<int64_t>(members_.size())}, -1, DType::i64);
  int64_t* places = shared.data<int64_t>();
  std::copy(observed.begin(), observed.end(), places);
  broadcast_values(communicator_, {shared}, "gradient order");
  const int64_t* end = std::find(places, places + members_.size(), -1);
  return std::vector<int>(places, const_cast<int64_t*>(end));
}

// Before the first update, so that the optimizer's state is made for the final place. Slices stay
// where they are: there only the buckets' order changes.
void DistributedDataParallel::pack_in_observed_order(const std::vector<int>& observed) {
  packed_ = true;
  std::vector<int> order = order_of_rank_zero(observed);
  if (sharding_) {
    sharding_->reorder(order);
    return regroup();
  }
  std::vector<bool> placed(members_.size(), false);
  for (int member : order) placed[member] = true;
  const std::vector<int> before = memory_order();
  std::copy_if(before.begin(), before.end(), std::back_inserter(order),
               [&](int member) { return !placed[member]; });
  if (order == before) return;
  move_into(packed(order));
  regroup();
}

// Parameters that were frozen when data parallelism began and have a gradient now.
void DistributedDataParallel::adopt_thawed(const std::vector<Use>& uses) {
  std::vector<int> order = memory_order();
  for (size_t i = 0; i < uses.size(); ++i) {
    if (member_of_[i] != kOutside || uses[i].used == 0) continue;
    member_of_[i] = static_cast<int>(members_.size());
    order.push_back(member_of_[i]);
    members_.push_back(static_cast<int>(i));
  }
  if (order.size() == layout_.offsets.size()) return;
  move_into(packed(order));
  regroup();
}

}  // namespace lockstep::nn
