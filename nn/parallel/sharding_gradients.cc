// Gradients on their way into the slices.
#include <algorithm>

#include "lockstep/nn/parallel/sharding.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::nn {
namespace {

// Nobody may look at a gradient of which only a slice is there.
class GradientGuard final : public StorageGuard {
  void before_access(Storage&) override {
    fail(
        {"the gradient of a sharded parameter is not here as a whole: Parameter::own_gradient() "
         "is this rank's slice of it"});
  }
};

}  // namespace

std::shared_ptr<StorageGuard> Sharding::gradient_guard() {
  return std::make_shared<GradientGuard>();
}

void Sharding::fall_asleep(const std::vector<bool>& frozen) {
  for (const auto& bucket : buckets_) {
    bucket->asleep = std::all_of(bucket->members.begin(), bucket->members.end(),
                                 [&](int index) { return frozen[static_cast<size_t>(index)]; });
  }
}

void Sharding::open(int index) {
  const Purpose purpose("gradients");
  Bucket& bucket = *buckets_[static_cast<size_t>(index)];
  const Ref<Storage>& storage = bucket.gradients.storage();
  for (int member : bucket.members) {
    Leaf& leaf = parameter(member).parameter.leaf();
    if (!leaf.seated()) continue;  // what came late has memory of its own
    if (leaf.has_gradient()) keep(bucket, member);
    leaf.set_has_gradient(false);
    leaf.set_away(false);
  }
  storage->attach();
  storage->set_guard(nullptr);
  bucket.open = true;
}

// The gradient is that of an earlier step, which this step's is to be added to.
void Sharding::keep(Bucket& bucket, int index) {
  const Array& own = bucket.own_gradients;
  if (!bucket.kept) bucket.kept = Array::zeros(own.shape(), own.dtype(), own.device());
  const Array& gradient = parameter(index).parameter.own_gradient();
  const int64_t begin = gradient.offset() - own.offset();
  kernels::copy_into(gradient, bucket.kept.narrow(0, begin, gradient.elements()));
  used_[static_cast<size_t>(index)] = true;
}

// What no backward pass has written, and the padding.
void Sharding::clear_unwritten(const Bucket& bucket) {
  int64_t end = 0;
  const auto clear_until = [&](int64_t next) {
    if (next > end) kernels::fill(bucket.gradients.narrow(0, end, next - end), 0);
  };
  for (int index : bucket.members) {
    const Parameter& member = parameter(index).parameter;
    if (!member.leaf().seated() || !member.leaf().has_gradient()) continue;
    const int64_t offset = offset_of_[static_cast<size_t>(index)];
    clear_until(offset);
    end = offset + member.elements();
  }
  clear_until(bucket.elements);
}

void Sharding::reduce(int index, double weight) {
  Bucket& bucket = *buckets_[static_cast<size_t>(index)];
  if (bucket.asleep) return;
  if (!bucket.open) open(index);
  clear_unwritten(bucket);
  for (int member : bucket.members) {
    Leaf& leaf = parameter(member).parameter.leaf();
    if (!leaf.seated()) continue;
    if (leaf.has_gradient()) used_[static_cast<size_t>(member)] = true;
    leaf.set_busy(true);
  }
  const Array whole = unguarded(bucket.gradients);
  if (weight == 0) {
    kernels::fill(whole, 0);
  } else if (weight != 1) {
    kernels::scale_add(weight, whole, 0, whole);
  }
  const CollectiveOptions what{.what = "gradients", .bucket = index};
  Work work;
  if (options_.hook) {
    GradientBucket out{.communicator = communicator_,
                       .index = index,
                       .values = whole,
                       .gradients = {},
                       .parameters = bucket.members,
                       .weight = weight};
    for (int member : bucket.members) out.gradients.push_back(window(bucket, whole, member));
    work = options_.hook(out);
  } else if (options_.reduce_dtype && *options_.reduce_dtype != whole.dtype()) {
    const Array small = kernels::cast(whole, *options_.reduce_dtype);
    const Array slice = own_slice(small), place = own_slice(whole);
    work = communicator_.reduce_scatter(small, slice, ReduceOp::mean, what).then([slice, place] {
      kernels::copy_into(slice, place);
      return Work();
    });
  } else {
    work = communicator_.reduce_scatter(whole, own_slice(whole), ReduceOp::mean, what);
  }
  reductions_.push_back({&bucket, std::move(work)});
  if (!sharded(ShardLevel::gradients)) return;
  // All of a block travel while the next block's gradients come, and share their memory after that.
  while (reductions_.front().bucket->block != bucket.block) complete_first();
}

void Sharding::complete_first() {
  const Reduction reduction = std::move(reductions_.front());
  reductions_.pop_front();
  wait(reduction.work);
  Bucket& bucket = *reduction.bucket;
  if (sharded(ShardLevel::gradients)) {
    kernels::scale_add(1, own_slice(bucket.gradients), bucket.fresh ? 0 : 1, bucket.own_gradients);
  }
  bucket.fresh = false;
  close(bucket);
}

void Sharding::close(Bucket& bucket) {
  if (sharded(ShardLevel::gradients)) bucket.gradients.storage()->release_memory();
  bucket.gradients.storage()->set_guard(gradient_guard_);
  bucket.open = false;
}

void Sharding::end_round() {
  while (!reductions_.empty()) complete_first();
  for (const NamedParameter& named : parameters_) {
    Leaf& leaf = named.parameter.leaf();
    leaf.set_busy(false);
    if (!leaf.seated()) continue;
    leaf.set_has_gradient(false);
    leaf.set_away(true);
  }
}

void Sharding::add_late(int index, const Array& mean) {
  const Parameter& member = parameter(index).parameter;
  Bucket& bucket = *place_of_[static_cast<size_t>(index)];
  if (bucket.fresh) kernels::fill(bucket.own_gradients, 0);  // nothing else has come
  bucket.fresh = false;
  const Shard& shard = *member.shard();
  const Array flat = mean.reshape({mean.elements()});
  kernels::scale_add(1, flat.narrow(0, shard.begin, shard.gradient.elements()), 1, shard.gradient);
  Leaf& leaf = member.leaf();
  leaf.set_has_gradient(false);
  leaf.seat_gradient(window(bucket, bucket.gradients, index));
  leaf.set_away(true);
}

void Sharding::scale_gradients(double factor) {
  for (const auto& bucket : buckets_) {
    kernels::scale_add(factor, bucket->own_gradients, 0, bucket->own_gradients);
  }
}

void Sharding::end_step(const std::vector<bool>& frozen) {
  fall_asleep(frozen);
  for (const auto& bucket : buckets_) {
    if (bucket->kept) kernels::scale_add(1, bucket->kept, 1, bucket->own_gradients);
    bucket->kept = {};
    bucket->fresh = true;
  }
  std::fill(used_.begin(), used_.end(), false);
}

}  // namespace lockstep::nn
