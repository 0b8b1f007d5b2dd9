// Values on their way from the slices to whoever looks at them.
#include <algorithm>

#include "lockstep/nn/parallel/sharding.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::nn {

namespace {

// Passes between two updates that are told apart.
constexpr int kMostRounds = 64;

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

void Sharding::let_go_of(Page& page) {
  page.guard->forget();
  if (page.state == Page::State::arriving) page.whole.storage()->set_guard(nullptr);
}

void Sharding::wait(const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  work.wait();
  waited_ += std::chrono::steady_clock::now() - start;
}

void Sharding::start_gather(Page& page) {
  const Purpose purpose("parameters");
  const Ref<Storage>& storage = page.whole.storage();
  storage->attach();
  const Array whole = unguarded(page.whole);
  Array own = own_slice(whole);
  if (page.own.dtype() != whole.dtype()) {  // rounded where it goes: it takes no memory else
    kernels::copy_into(page.own, own);
  } else if (sharded(ShardLevel::parameters)) {
    own = page.own;
  }
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
  looked_ = true;
}

// The last looks once `page` has been looked at.
Sharding::Looks Sharding::after(const Looks& looks, Look page) {
  if (page == nullptr) return {.before = looks.here};
  const bool goes_on = looks.here != nullptr && looks.here->block == page->block;
  const Look first = looks.first != nullptr ? looks.first : page;
  return {.before = goes_on ? looks.before : looks.here,
          .here = page,
          .first = first,
          .round = std::min(looks.round + (page == first ? 1 : 0), kMostRounds)};
}

void Sharding::look_at(Look page) {
  next_look_[looks_] = page;
  next_look_[looks_.of_any_pass()] = page;
  looks_ = after(looks_, page);
}

// Null: nothing, or not known.
Sharding::Look Sharding::expected_after(const Looks& looks) const {
  auto next = next_look_.find(looks);
  if (next == next_look_.end()) next = next_look_.find(looks.of_any_pass());
  return next == next_look_.end() ? nullptr : next->second;
}

// What is looked at, as far as it is known, before the block after the next one is: what is left of
// this block, and the next one.
std::vector<Sharding::Look> Sharding::expected_looks() const {
  const Page* here = looks_.here;
  std::optional<int> next_block;
  std::vector<Look> expected;
  Looks looks = looks_;
  for (size_t i = 0; i < pages_.size(); ++i) {
    const Look page = expected_after(looks);
    if (page == nullptr) break;
    if (here == nullptr || page->block != here->block) {
      if (page->block != next_block.value_or(page->block)) break;
      next_block = page->block;
    }
    expected.push_back(page);
    looks = after(looks, page);
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
    for (Page* page : {bucket->values, bucket->copy}) {
      if (page != nullptr && page->state != Page::State::here) bring(*page);
    }
  }
}

// After what was here has gone: so there are two blocks at a time, not three.
void Sharding::bring_ahead() {
  if (std::exchange(looked_, false) && options_.prefetch) prefetch();
}

void Sharding::take_back() noexcept {
  if (pinned_ || !sharded(ShardLevel::parameters) || looks_.here == nullptr) return;
  for (const auto& page : pages_) {
    if (page->state == Page::State::here && page->block != looks_.here->block) take_away(*page);
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

// One rank alone may have used the model, and made copies that the others have not: they would look
// at what it does not.
void Sharding::forget_copies() {
  if (options_.copies == nullptr) return;
  for (const auto& bucket : buckets_) {
    if (bucket->copy == nullptr) options_.copies->withdraw(*bucket->values->whole.storage());
  }
}

void Sharding::values_changed() {
  if (std::exchange(pinned_, false) && sharded(ShardLevel::parameters)) forget_copies();
  // The bucket that is ready last is about the one that is looked at first.
  for (auto it = buckets_.rbegin(); it != buckets_.rend(); ++it) {
    Bucket& bucket = **it;
    const uint64_t version = bucket.values->own.storage()->version();
    if (version == bucket.published) continue;
    publish(*bucket.values);
    if (bucket.copy != nullptr) publish(*bucket.copy);
    bucket.published = version;
  }
  if (!sharded(ShardLevel::parameters)) return;
  look_at(nullptr);
  looked_ = true;
  bring_ahead();
}

// On the host, wherever the slices are.
void Sharding::reduce_numbers(std::span<double> values, ReduceOp op) {
  const Array array =
      Array::from(std::span<const double>(values), {static_cast<int64_t>(values.size())});
  wait(communicator_.all_reduce(array, op, {.what = "sum over slices"}));
  std::copy_n(array.data<double>(), values.size(), values.begin());
}

void Sharding::sum(std::span<double> values) { reduce_numbers(values, ReduceOp::sum); }

void Sharding::maximum(std::span<double> values) { reduce_numbers(values, ReduceOp::max); }

}  // namespace lockstep::nn
