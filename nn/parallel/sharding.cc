#include "lockstep/nn/parallel/sharding.h"

#include <algorithm>
#include <limits>

#include "lockstep/nn/blocks.h"
#include "lockstep/nn/parallel/same_model.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::nn {
namespace {

// Reductions under way while the next bucket fills.
constexpr size_t kMostReductions = 1;

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

class Sharding::PageGuard final : public StorageGuard {
 public:
  PageGuard(Sharding& owner, Page& page) : owner_(&owner), page_(&page) {}
  void forget() { owner_ = nullptr; }
  void before_access(Storage&) override {
    if (owner_ == nullptr) {
      fail({"the values of a parameter are in slices of a data parallelism that is gone"});
    }
    owner_->bring(*page_);
  }

 private:
  Sharding* owner_;
  Page* page_;
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
      lay_out(bucket);
      make_values(bucket, group.block);
      make_copy(bucket);
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
    for (const auto& page : pages_) page->gather.wait();
  } catch (const CollectiveError&) {  // those who still use the ranks learn of it
  }
  for (const auto& page : pages_) {
    page->guard->forget();
    if (page->state == Page::State::arriving) page->whole.storage()->set_guard(nullptr);
  }
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

Array Sharding::own_slice(const Array& flat) const {
  const int64_t length = flat.elements() / communicator_.size();
  return flat.narrow(0, communicator_.rank() * length, length);
}

void Sharding::make_values(Bucket& bucket, int block) {
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
  bucket.values = &add_page(std::move(whole), std::move(own), block,
                            "values of " + parameter(bucket.members.front()).name);
}

Sharding::Page& Sharding::add_page(Array whole, Array own, int block, std::string name) {
  Page& page = *pages_.emplace_back(std::make_unique<Page>());
  page.block = block;
  page.name = std::move(name);
  page.whole = std::move(whole);
  page.own = std::move(own);
  page.guard = std::make_shared<PageGuard>(*this, page);
  if (sharded(ShardLevel::parameters)) take_away(page);
  return page;
}

// Vectors are small, and norms read them as they are.
void Sharding::make_copy(Bucket& bucket) {
  const bool matrices = std::any_of(
      bucket.members.begin(), bucket.members.end(),
      [this](int index) { return parameter(index).parameter.shape().rank() >= 2; });
  const Page& values = *bucket.values;
  if (!sharded(ShardLevel::parameters) || options_.copies == nullptr || !matrices ||
      values.own.dtype() != DType::f32) {
    return;
  }
  const DType dtype = options_.copies->dtype();
  bucket.copy = &add_page(without_memory(bucket.elements, dtype, values.own.device()),
                          kernels::cast(values.own, dtype), values.block,
                          values.name + " in 16 bits");
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
  for (const auto& bucket : buckets_) {
    if (bucket->kept) kernels::scale_add(1, bucket->kept, 1, bucket->own_gradients);
    bucket->kept = {};
    bucket->fresh = true;
  }
  std::fill(used_.begin(), used_.end(), false);
}

// --- Values ---

void Sharding::wait(const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  work.wait();
  waited_ += std::chrono::steady_clock::now() - start;
}

void Sharding::start_gather(Page& page) {
  const Ref<Storage>& storage = page.whole.storage();
  storage->attach();
  const Array whole = unguarded(page.whole);
  const Array own = sharded(ShardLevel::parameters) ? page.own : own_slice(whole);
  page.gather = communicator_.all_gather(own, whole, {.what = page.name});
  storage->set_guard(page.guard);
  page.state = Page::State::arriving;
}

void Sharding::bring(Page& page) {
  if (page.state == Page::State::away) start_gather(page);
  wait(page.gather);
  page.gather = Work();
  page.state = Page::State::here;
  page.whole.storage()->set_guard(nullptr);
  if (pinned_ || !sharded(ShardLevel::parameters)) return;
  look_at(&page);
  if (options_.prefetch) prefetch();
}

void Sharding::look_at(Look page) {
  next_look_[looks_] = page;
  looks_ = {looks_.second, page};
}

// What the next block looks at, as far as it is known, before the one after it is looked at.
std::vector<Sharding::Look> Sharding::expected_looks() const {
  const Page* here = looks_.second;
  std::vector<Look> expected;
  std::pair<Look, Look> looks = looks_;
  for (size_t i = 0; i < pages_.size(); ++i) {
    const auto next = next_look_.find(looks);
    if (next == next_look_.end() || next->second == nullptr) break;
    const Look page = next->second;
    const bool other = here == nullptr || page->block != here->block;
    if (!expected.empty() && other && page->block != expected.back()->block) break;
    if (other) expected.push_back(page);
    looks = {looks.second, page};
  }
  return expected;
}

// Starts to gather what is expected, and gives up what was expected before and is not any more.
void Sharding::prefetch() {
  const std::vector<Look> expected = expected_looks();
  for (const auto& page : pages_) {
    if (page->state != Page::State::arriving) continue;
    if (std::find(expected.begin(), expected.end(), page.get()) != expected.end()) continue;
    wait(page->gather);
    take_away(*page);
  }
  for (const Look page : expected) {
    if (page->state == Page::State::away) start_gather(*page);
  }
}

void Sharding::take_away(Page& page) {
  page.gather = Work();
  page.whole.storage()->release_memory();
  page.whole.storage()->set_guard(page.guard);
  page.state = Page::State::away;
}

void Sharding::gather_all() {
  pinned_ = true;
  for (const auto& bucket : buckets_) {
    if (bucket->values->state != Page::State::here) bring(*bucket->values);
  }
}

void Sharding::between_ops() {
  if (pinned_ || !sharded(ShardLevel::parameters) || looks_.second == nullptr) return;
  for (const auto& page : pages_) {
    if (page->state == Page::State::here && page->block != looks_.second->block) take_away(*page);
  }
}

// The page's own values are new.
void Sharding::publish(Page& page) {
  if (page.state == Page::State::arriving) wait(page.gather);
  if (sharded(ShardLevel::parameters)) {
    if (page.state != Page::State::away) take_away(page);
    page.whole.storage()->bump_version();
  } else {
    start_gather(page);
  }
}

void Sharding::values_changed() {
  pinned_ = false;
  // The bucket that is ready last is about the one that is looked at first.
  for (auto it = buckets_.rbegin(); it != buckets_.rend(); ++it) {
    Bucket& bucket = **it;
    const uint64_t version = bucket.values->own.storage()->version();
    if (version == bucket.published) continue;
    publish(*bucket.values);
    if (bucket.copy != nullptr) {
      kernels::copy_into(bucket.values->own, bucket.copy->own);
      publish(*bucket.copy);
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

// Last parameter first: about the order in which backward finishes them.
std::vector<int> reversed(const std::vector<NamedParameter>& parameters, bool frozen) {
  std::vector<int> order;
  for (int i = static_cast<int>(parameters.size()) - 1; i >= 0; --i) {
    if (parameters[static_cast<size_t>(i)].parameter.frozen() == frozen) order.push_back(i);
  }
  return order;
}

}  // namespace

std::vector<Sharding::Group> groups_by_block(const std::vector<NamedParameter>& parameters,
                                             bool vectors_apart) {
  std::map<std::string, int> blocks;
  std::vector<Sharding::Group> groups;
  for (bool frozen : {false, true}) {
    std::map<std::pair<int, bool>, size_t> group_of;
    for (int i : reversed(parameters, frozen)) {
      const auto& [name, parameter] = parameters[static_cast<size_t>(i)];
      const int next = static_cast<int>(blocks.size());
      const int block = blocks.try_emplace(block_of(name), next).first->second;
      const bool apart = vectors_apart && parameter.shape().rank() < 2;
      const auto [place, added] = group_of.try_emplace({block, apart}, groups.size());
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
