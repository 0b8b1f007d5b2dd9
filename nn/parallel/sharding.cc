#include "lockstep/nn/parallel/sharding.h"

#include <algorithm>
#include <limits>

#include "lockstep/nn/parallel/same_model.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::nn {
namespace {

// A storage that has a size and no memory.
Array without_memory(int64_t elements, DType dtype, Device device) {
  const Array array = Array::empty({elements}, dtype, device);
  array.storage()->release_memory();
  return array;
}

}  // namespace

Sharding::Sharding(const std::vector<NamedParameter>& parameters, std::vector<Group> groups,
                   Communicator& communicator, Options options)
    : parameters_(parameters),
      communicator_(communicator),
      options_(std::move(options)),
      place_of_(parameters.size()),
      offset_of_(parameters.size()),
      used_(parameters.size(), false),
      gradient_guard_(gradient_guard()) {
  const Array seed = Array::from({static_cast<int64_t>(options_.placement.seed)}, {1});
  broadcast_values(communicator_, {seed}, "seed");
  options_.placement.seed = static_cast<uint64_t>(*seed.data<int64_t>());
  try {
    for (Group& group : groups) {
      Bucket& bucket = *buckets_.emplace_back(std::make_unique<Bucket>());
      bucket.members = std::move(group.members);
      bucket.block = group.block;
      lay_out(bucket);
      make_values(bucket);
      make_copy(bucket);
      make_gradients(bucket);
      seat(bucket);
    }
    std::vector<bool> frozen;
    for (const NamedParameter& named : parameters) frozen.push_back(named.parameter.frozen());
    fall_asleep(frozen);
  } catch (...) {
    let_go();
    throw;
  }
}

Sharding::~Sharding() { let_go(); }

// Parameters may outlive this; without it their values are whole, or out of reach.
void Sharding::let_go() {
  try {
    for (const Reduction& reduction : reductions_) reduction.work.wait();
    for (const auto& page : pages_) page->gather.wait();
  } catch (const std::exception&) {  // those who still use the ranks learn of it
  }
  for (const auto& page : pages_) let_go_of(*page);
  for (const auto& bucket : buckets_) {
    if (bucket->copy != nullptr) options_.copies->withdraw(*bucket->values->whole.storage());
    for (int index : bucket->members) {
      const Parameter& parameter = this->parameter(index).parameter;
      if (!parameter.shard() || parameter.shard()->owner != this) continue;
      parameter.set_shard(std::nullopt);
      parameter.leaf().set_away(false);
      parameter.leaf().set_busy(false);
      parameter.leaf().seat_gradient({});
    }
  }
}

// Each parameter on a 64-byte boundary, and so each slice.
void Sharding::lay_out(Bucket& bucket) {
  const DType dtype = parameter(bucket.members.front()).parameter.placed()
                          ? parameter(bucket.members.front()).parameter.dtype()
                          : options_.placement.dtype;
  const int64_t boundary = 64 / static_cast<int64_t>(size_of(dtype));
  const auto rounded = [](int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; };
  int64_t end = 0;
  for (int index : bucket.members) {
    place_of_[static_cast<size_t>(index)] = &bucket;
    offset_of_[static_cast<size_t>(index)] = end;
    end = rounded(end + parameter(index).parameter.elements(), boundary);
  }
  bucket.elements = rounded(end, boundary * communicator_.size());
}

Array Sharding::window(const Bucket& bucket, const Array& flat, int index) const {
  const Shape& shape = parameter(index).parameter.shape();
  LOCKSTEP_CHECK(place_of_[static_cast<size_t>(index)] == &bucket, "not a member of the bucket");
  return Array(flat.storage(), flat.dtype(), shape, contiguous_strides(shape),
               flat.offset() + offset_of_[static_cast<size_t>(index)]);
}

Array Sharding::unguarded(const Array& flat) {
  return Array(flat.storage()->unguarded(), flat.dtype(), flat.shape(), flat.strides(),
               flat.offset());
}

Array Sharding::own_slice(const Array& flat) const {
  const int64_t length = flat.elements() / communicator_.size();
  return flat.narrow(0, communicator_.rank() * length, length);
}

void Sharding::make_values(Bucket& bucket) {
  const bool placed = parameter(bucket.members.front()).parameter.placed();
  const Placement& placement = options_.placement;
  const Array like =
      placed ? parameter(bucket.members.front()).parameter.tensor().value() : Array();
  const DType dtype = placed ? like.dtype() : placement.dtype;
  const Device device = placed ? like.device() : placement.device;
  for (int index : bucket.members) {
    const Parameter& member = parameter(index).parameter;
    LOCKSTEP_CHECK(member.placed() == placed && (!placed || member.dtype() == dtype),
                   "sharding: ", parameter(index).name, " and ",
                   parameter(bucket.members.front()).name, " share a bucket and differ in dtype");
  }
  const Purpose purpose("parameters");
  Array whole, own;
  if (!placed && sharded(ShardLevel::parameters)) {
    own = Array::zeros({bucket.elements / communicator_.size()}, dtype, device);
    fill_slices(bucket, own);
    whole = without_memory(bucket.elements, dtype, device);
  } else {
    whole = Array::zeros({bucket.elements}, dtype, device);
    fill_values(bucket, whole);
    broadcast_values(communicator_, {whole}, "initial state");
    own = own_slice(whole);
    if (sharded(ShardLevel::parameters)) own = kernels::copy(own);
  }
  bucket.published = own.storage()->version();
  bucket.values = &add_page(std::move(whole), std::move(own), bucket.block,
                            "values of " + parameter(bucket.members.front()).name);
}

// Vectors are small, and norms read them as they are.
void Sharding::make_copy(Bucket& bucket) {
  const bool matrices =
      std::any_of(bucket.members.begin(), bucket.members.end(),
                  [this](int index) { return parameter(index).parameter.shape().rank() >= 2; });
  const Page& values = *bucket.values;
  if (!sharded(ShardLevel::parameters) || options_.copies == nullptr || !matrices ||
      values.own.dtype() != DType::f32) {
    return;
  }
  const Purpose purpose("16-bit parameters");
  const DType dtype = options_.copies->dtype();
  bucket.copy = &add_page(without_memory(bucket.elements, dtype, values.own.device()), values.own,
                          values.block, values.name + " in 16 bits");
  options_.copies->provide(values.whole.storage(), bucket.copy->whole);
}

// Initial values of the members' parts in this rank's slice, and of nothing else.
void Sharding::fill_slices(const Bucket& bucket, const Array& own) {
  const int64_t length = own.elements(), first = communicator_.rank() * length;
  for (int index : bucket.members) {
    const auto& [name, member] = parameter(index);
    const int64_t offset = offset_of_[static_cast<size_t>(index)];
    const int64_t begin = std::max(first, offset);
    const int64_t end = std::min(first + length, offset + member.elements());
    if (begin >= end) continue;
    const Array part = own.narrow(0, begin - first, end - begin);
    member.initialize(part, begin - offset, name, options_.placement.seed);
  }
}

void Sharding::fill_values(const Bucket& bucket, const Array& whole) {
  for (int index : bucket.members) {
    const auto& [name, member] = parameter(index);
    const Array place = window(bucket, whole, index);
    if (member.placed()) {
      kernels::copy_into(member.tensor().value(), place);
    } else {
      member.initialize(place, 0, name, options_.placement.seed);
    }
  }
}

void Sharding::make_gradients(Bucket& bucket) {
  const Purpose purpose("gradients");
  const Array& like = bucket.values->own;
  if (sharded(ShardLevel::gradients)) {
    bucket.gradients = without_memory(bucket.elements, like.dtype(), like.device());
    bucket.own_gradients = Array::zeros(like.shape(), like.dtype(), like.device());
  } else {
    bucket.gradients = Array::zeros({bucket.elements}, like.dtype(), like.device());
    bucket.own_gradients = own_slice(unguarded(bucket.gradients));
  }
  bucket.gradients.storage()->set_guard(gradient_guard_);
}

void Sharding::seat(Bucket& bucket) {
  const Array& own = bucket.values->own;
  const int64_t length = own.elements(), first = communicator_.rank() * length;
  for (int index : bucket.members) {
    Parameter member = parameter(index).parameter;
    member.seat(window(bucket, bucket.values->whole, index), true);
    member.leaf().set_has_gradient(false);
    member.leaf().seat_gradient(window(bucket, bucket.gradients, index));
    member.leaf().set_away(true);
    const int64_t offset = offset_of_[static_cast<size_t>(index)];
    const int64_t begin = std::clamp(offset, first, first + length);
    const int64_t end = std::clamp(offset + member.elements(), begin, first + length);
    member.set_shard(Shard{.begin = std::clamp<int64_t>(first - offset, 0, member.elements()),
                           .value = own.narrow(0, begin - first, end - begin),
                           .gradient = bucket.own_gradients.narrow(0, begin - first, end - begin),
                           .owner = this});
  }
}

std::vector<int> Sharding::bucket_of() const {
  std::vector<int> result(parameters_.size());
  for (size_t i = 0; i < buckets_.size(); ++i) {
    for (int index : buckets_[i]->members) result[static_cast<size_t>(index)] = static_cast<int>(i);
  }
  return result;
}

void Sharding::reorder(const std::vector<int>& fired) {
  constexpr int kNever = std::numeric_limits<int>::max();
  std::map<const Bucket*, int> full_at;
  for (const auto& bucket : buckets_) full_at[bucket.get()] = kNever;
  for (size_t i = 0; i < fired.size(); ++i) {
    full_at[place_of_[static_cast<size_t>(fired[i])]] = static_cast<int>(i);
  }
  std::stable_sort(buckets_.begin(), buckets_.end(), [&](const auto& a, const auto& b) {
    return full_at[a.get()] < full_at[b.get()];
  });
}

}  // namespace lockstep::nn
