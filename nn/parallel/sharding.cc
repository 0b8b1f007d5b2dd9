#include "lockstep/nn/parallel/sharding.h"

#include <algorithm>
#include <limits>

#include "lockstep/nn/parallel/same_model.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::nn {
namespace {

// Reductions under way while their buckets' memory is still held.
constexpr size_t kMostReductions = 2;

// Nobody may look at a gradient of which only a slice is there.
class GradientGuard final : public StorageGuard {
  void before_access(Storage&) override {
    fail({"the gradient of a sharded parameter is not here as a whole: Parameter::own_gradient() "
          "is this rank's slice of it"});
  }
};

// A storage that has a size and no memory.
Array without_memory(int64_t elements, DType dtype, Device device) {
  const Array array = Array::empty({elements}, dtype, device);
  array.storage()->release_memory();
  return array;
}

// The memory of a storage that is guarded, for collectives.
Array unguarded(const Array& flat) {
  return Array(flat.storage()->unguarded(), flat.dtype(), flat.shape(), flat.strides(),
               flat.offset());
}

}  // namespace

class Sharding::ValuesGuard final : public StorageGuard {
 public:
  ValuesGuard(Sharding& owner, Bucket& bucket) : owner_(&owner), bucket_(&bucket) {}
  void forget() { owner_ = nullptr; }
  void before_access(Storage&) override {
    if (owner_ == nullptr) {
      fail({"the values of a parameter are in slices of a data parallelism that is gone"});
    }
    owner_->bring(*bucket_);
  }

 private:
  Sharding* owner_;
  Bucket* bucket_;
};

Sharding::Sharding(const std::vector<NamedParameter>& parameters, std::vector<Group> groups,
                   Communicator& communicator, Options options)
    : parameters_(parameters),
      communicator_(communicator),
      options_(std::move(options)),
      place_of_(parameters.size()),
      offset_of_(parameters.size()),
      used_(parameters.size(), false),
      gradient_guard_(std::make_shared<GradientGuard>()) {
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
      make_gradients(bucket);
      seat(bucket);
    }
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
    for (const auto& bucket : buckets_) bucket->gather.wait();
  } catch (const CollectiveError&) {  // those who still use the ranks learn of it
  }
  for (const auto& bucket : buckets_) {
    if (bucket->guard) bucket->guard->forget();
    if (bucket->state == Values::arriving) bucket->values.storage()->set_guard(nullptr);
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

Array Sharding::own_slice(const Array& flat) const {
  const int64_t length = flat.elements() / communicator_.size();
  return flat.narrow(0, communicator_.rank() * length, length);
}

void Sharding::make_values(Bucket& bucket) {
  const bool placed = parameter(bucket.members.front()).parameter.placed();
  const Placement& placement = options_.placement;
  const Array like = placed ? parameter(bucket.members.front()).parameter.tensor().value() : Array();
  const DType dtype = placed ? like.dtype() : placement.dtype;
  const Device device = placed ? like.device() : placement.device;
  for (int index : bucket.members) {
    const Parameter& member = parameter(index).parameter;
    LOCKSTEP_CHECK(member.placed() == placed && (!placed || member.dtype() == dtype),
                   "sharding: ", parameter(index).name, " and ",
                   parameter(bucket.members.front()).name, " share a bucket and differ in dtype");
  }
  if (!placed && sharded(ShardLevel::parameters)) {
    bucket.own_values = Array::zeros({bucket.elements / communicator_.size()}, dtype, device);
    fill_slices(bucket, placement.seed);
    bucket.values = without_memory(bucket.elements, dtype, device);
  } else {
    bucket.values = Array::zeros({bucket.elements}, dtype, device);
    fill_values(bucket);
    broadcast_values(communicator_, {bucket.values}, "initial state");
    const Array slice = own_slice(bucket.values);
    bucket.own_values = sharded(ShardLevel::parameters) ? kernels::copy(slice) : slice;
    if (sharded(ShardLevel::parameters)) bucket.values.storage()->release_memory();
  }
  bucket.guard = std::make_shared<ValuesGuard>(*this, bucket);
  if (sharded(ShardLevel::parameters)) {
    bucket.state = Values::away;
    bucket.values.storage()->set_guard(bucket.guard);
  }
  bucket.published = bucket.own_values.storage()->version();
}

// Initial values of the members' parts in this rank's slice, and of nothing else.
void Sharding::fill_slices(Bucket& bucket, uint64_t seed) {
  const int64_t length = bucket.own_values.elements(), first = communicator_.rank() * length;
  for (int index : bucket.members) {
    const auto& [name, member] = parameter(index);
    const int64_t offset = offset_of_[static_cast<size_t>(index)];
    const int64_t begin = std::max(first, offset);
    const int64_t end = std::min(first + length, offset + member.elements());
    if (begin >= end) continue;
    const Array part = bucket.own_values.narrow(0, begin - first, end - begin);
    member.initialize(part, begin - offset, name, seed);
  }
}

void Sharding::fill_values(Bucket& bucket) {
  for (int index : bucket.members) {
    const auto& [name, member] = parameter(index);
    const Array place = window(bucket, bucket.values, index);
    if (member.placed()) {
      kernels::copy_into(member.tensor().value(), place);
    } else {
      member.initialize(place, 0, name, options_.placement.seed);
    }
  }
}

void Sharding::make_gradients(Bucket& bucket) {
  const Array& like = bucket.own_values;
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
  const int64_t length = bucket.own_values.elements(), first = communicator_.rank() * length;
  for (int index : bucket.members) {
    Parameter member = parameter(index).parameter;
    member.seat(window(bucket, bucket.values, index), true);
    member.leaf().set_has_gradient(false);
    member.leaf().seat_gradient(window(bucket, bucket.gradients, index));
    member.leaf().set_away(true);
    const int64_t offset = offset_of_[static_cast<size_t>(index)];
    const int64_t begin = std::clamp(offset, first, first + length);
    const int64_t end = std::clamp(offset + member.elements(), begin, first + length);
    member.set_shard(Shard{.begin = std::clamp<int64_t>(first - offset, 0, member.elements()),
                           .value = bucket.own_values.narrow(0, begin - first, end - begin),
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

// --- Gradients ---

// All ranks freeze the same parameters.
bool Sharding::asleep(const Bucket& bucket) const {
  return std::all_of(bucket.members.begin(), bucket.members.end(),
                     [this](int index) { return parameter(index).parameter.frozen(); });
}

void Sharding::open(int index) {
  Bucket& bucket = *buckets_[static_cast<size_t>(index)];
  const Ref<Storage>& storage = bucket.gradients.storage();
  for (int member : bucket.members) {
    Leaf& leaf = parameter(member).parameter.leaf();
    if (!leaf.seated()) continue;  // what came late has memory of its own
    LOCKSTEP_CHECK(!leaf.has_gradient(), "backward: the gradient of ", parameter(member).name,
                   " is that of an earlier step; call zero_grad() first (sharded gradients cannot "
                   "be added to)");
    leaf.set_away(false);
  }
  storage->attach();
  storage->set_guard(nullptr);
  bucket.open = true;
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
  if (asleep(bucket)) return;
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
    GradientBucket out{communicator_, index, whole, {}};
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
  // Their memory is all that the others share.
  while (sharded(ShardLevel::gradients) && reductions_.size() > kMostReductions) complete_first();
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
  const Bucket& bucket = *place_of_[static_cast<size_t>(index)];
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

void Sharding::end_step() {
  for (const auto& bucket : buckets_) bucket->fresh = true;
  std::fill(used_.begin(), used_.end(), false);
}

// --- Values ---

void Sharding::wait(const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  work.wait();
  waited_ += std::chrono::steady_clock::now() - start;
}

void Sharding::start_gather(Bucket& bucket) {
  const Ref<Storage>& storage = bucket.values.storage();
  storage->attach();
  const Array whole = unguarded(bucket.values);
  const Array slice = sharded(ShardLevel::parameters) ? bucket.own_values : own_slice(whole);
  const std::string what = "values of " + parameter(bucket.members.front()).name;
  bucket.gather = communicator_.all_gather(slice, whole, {.what = what});
  storage->set_guard(bucket.guard);
  bucket.state = Values::arriving;
}

void Sharding::bring(Bucket& bucket) {
  if (bucket.state == Values::away) start_gather(bucket);
  wait(bucket.gather);
  bucket.gather = Work();
  bucket.state = Values::here;
  bucket.values.storage()->set_guard(nullptr);
  if (sharded(ShardLevel::parameters)) {
    look_at(&bucket);
    if (options_.prefetch) prefetch();
  }
}

void Sharding::look_at(Look bucket) {
  next_look_[looks_] = bucket;
  looks_ = {looks_.second, bucket};
}

// Starts to gather what the next block looked at after this and before the one after it, and gives
// up what was gathered and is not expected any more.
void Sharding::prefetch() {
  const Look here = looks_.second;
  std::vector<Look> expected;
  std::pair<Look, Look> looks = looks_;
  for (size_t i = 0; i < buckets_.size(); ++i) {
    const auto next = next_look_.find(looks);
    if (next == next_look_.end() || next->second == nullptr) break;
    const Look bucket = next->second;
    const bool other = here == nullptr || bucket->block != here->block;
    if (!expected.empty() && other && bucket->block != expected.back()->block) break;
    if (other) expected.push_back(bucket);
    looks = {looks.second, bucket};
  }
  for (const auto& bucket : buckets_) {
    const bool wanted =
        std::find(expected.begin(), expected.end(), bucket.get()) != expected.end();
    if (bucket->state == Values::arriving && !wanted) {
      wait(bucket->gather);
      take_away(*bucket);
    }
  }
  for (const Look look : expected) {
    Bucket& bucket = *place_of_[static_cast<size_t>(look->members.front())];
    if (bucket.state == Values::away) start_gather(bucket);
  }
}

void Sharding::take_away(Bucket& bucket) {
  bucket.gather = Work();
  bucket.values.storage()->release_memory();
  bucket.values.storage()->set_guard(bucket.guard);
  bucket.state = Values::away;
}

void Sharding::between_ops() {
  if (!sharded(ShardLevel::parameters) || looks_.second == nullptr) return;
  for (const auto& bucket : buckets_) {
    if (bucket->state != Values::here || bucket->block == looks_.second->block) continue;
    take_away(*bucket);
  }
}

void Sharding::values_changed() {
  // The bucket that is ready last is about the one that is looked at first.
  for (auto it = buckets_.rbegin(); it != buckets_.rend(); ++it) {
    Bucket& bucket = **it;
    const uint64_t version = bucket.own_values.storage()->version();
    if (version == bucket.published) continue;
    if (bucket.state == Values::arriving) wait(bucket.gather);
    if (sharded(ShardLevel::parameters)) {
      if (bucket.state != Values::away) take_away(bucket);
      bucket.values.storage()->bump_version();
    } else {
      start_gather(bucket);
    }
    bucket.published = version;
  }
  if (!sharded(ShardLevel::parameters)) return;
  look_at(nullptr);
  if (options_.prefetch) prefetch();
}

void Sharding::reduce_numbers(std::span<double> values, ReduceOp op) {
  const Array array = Array::from(std::span<const double>(values),
                                  {static_cast<int64_t>(values.size())});
  wait(communicator_.all_reduce(array, op, {.what = "sum over slices"}));
  std::copy_n(array.data<double>(), values.size(), values.begin());
}

void Sharding::sum(std::span<double> values) { reduce_numbers(values, ReduceOp::sum); }

void Sharding::maximum(std::span<double> values) { reduce_numbers(values, ReduceOp::max); }

// --- Groups ---

namespace {

bool is_number(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(),
                                      [](char c) { return c >= '0' && c <= '9'; });
}

// "h.3" of "h.3.attn.c_attn.weight"; "wte" of "wte.weight"; nothing of "weight".
std::string block_of(const std::string& name) {
  size_t begin = 0;
  for (size_t dot = name.find('.'); dot != name.npos; dot = name.find('.', begin)) {
    if (is_number(std::string_view(name).substr(begin, dot - begin))) return name.substr(0, dot);
    begin = dot + 1;
  }
  return begin == 0 ? "" : name.substr(0, begin - 1);
}

// Last parameter first: about the order in which backward finishes them.
std::vector<int> reversed(const std::vector<NamedParameter>& parameters, bool frozen) {
  std::vector<int> order;
  for (int i = static_cast<int>(parameters.size()) - 1; i >= 0; --i) {
    if (parameters[static_cast<size_t>(i)].parameter.frozen() == frozen) order.push_back(i);
  }
  return order;
}

}  // namespace

std::vector<Sharding::Group> groups_by_block(const std::vector<NamedParameter>& parameters) {
  std::map<std::string, int> blocks;
  std::vector<Sharding::Group> groups;
  for (bool frozen : {false, true}) {
    std::map<int, size_t> group_of;
    for (int i : reversed(parameters, frozen)) {
      const std::string name = block_of(parameters[static_cast<size_t>(i)].name);
      const int block = blocks.try_emplace(name, static_cast<int>(blocks.size())).first->second;
      const auto [place, added] = group_of.try_emplace(block, groups.size());
      if (added) groups.push_back({.members = {}, .block = block});
      groups[place->second].members.push_back(i);
    }
  }
  return groups;
}

std::vector<Sharding::Group> groups_by_size(const std::vector<NamedParameter>& parameters,
                                            DType dtype, const BucketSizes& sizes) {
  std::vector<Shape> shapes;
  for (const NamedParameter& named : parameters) shapes.push_back(named.parameter.shape());
  std::vector<Sharding::Group> groups;
  for (bool frozen : {false, true}) {
    const std::vector<int> order = reversed(parameters, frozen);
    for (FlatLayout::Bucket& bucket : FlatLayout::pack(shapes, order, dtype, sizes).buckets) {
      groups.push_back({std::move(bucket.members), static_cast<int>(groups.size())});
    }
  }
  return groups;
}

}  // namespace lockstep::nn
