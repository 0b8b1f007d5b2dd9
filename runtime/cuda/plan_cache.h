#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "lockstep/runtime/view.h"

namespace lockstep::cuda {

// All that a plan depends on: a name, dtypes, shapes, strides, options.
using PlanKey = std::vector<int64_t>;

// Strides in which dimensions of size 1 have one as if they were packed around what lies inside
// them: what a plan sees, whatever array the view is cut from.
inline std::vector<int64_t> plan_strides(const View& view) {
  std::vector<int64_t> strides(view.strides, view.strides + view.rank);
  for (int i = 0; i < view.rank; ++i) {
    if (view.shape[i] != 1) continue;
    int64_t extent = 1;
    for (int j = i + 1; j < view.rank; ++j) {
      if (view.shape[j] != 1) extent = std::max(extent, view.shape[j] * view.strides[j]);
    }
    strides[static_cast<size_t>(i)] = extent;
  }
  return strides;
}

inline void append(PlanKey& key, const View& view) {
  key.push_back(static_cast<int64_t>(view.dtype));
  key.insert(key.end(), view.shape, view.shape + view.rank);
  const std::vector<int64_t> strides = plan_strides(view);
  key.insert(key.end(), strides.begin(), strides.end());
}

// A library's plans, which take from milliseconds to a second to make, a refusal too: both are
// kept, and the half that was used longest ago forgotten where there are too many. `Plan` has a
// bool `captured`: a graph of the device may run it, so it stays. Not thread-safe.
template <class Plan>
class PlanCache {
 public:
  explicit PlanCache(size_t most = 4096) : most_(most) {}

  // The plan of `key`, until the next call; null: there is none. `make` returns a plan or null.
  // What fails while `is_short()` (the device has no memory to plan in) is tried once more after
  // `make_room()`, and is no refusal: the next call asks again.
  template <class Make, class IsShort, class MakeRoom>
  Plan* find(const PlanKey& key, const Make& make, const IsShort& is_short,
             const MakeRoom& make_room) {
    const auto found = entries_.find(key);
    if (found != entries_.end()) {
      found->second.used = ++uses_;
      return found->second.plan.get();
    }
    std::unique_ptr<Plan> plan = make();
    if (plan == nullptr && is_short()) {
      make_room();
      plan = make();
      if (plan == nullptr && is_short()) return nullptr;
    }
    if (entries_.size() >= most_) forget_half();
    return entries_.emplace(key, Entry{std::move(plan), ++uses_}).first->second.plan.get();
  }

  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    std::unique_ptr<Plan> plan;  // null: refused
    uint64_t used = 0;
  };

  void forget_half() {
    std::vector<uint64_t> used;
    for (const auto& [key, entry] : entries_) used.push_back(entry.used);
    const auto middle = used.begin() + static_cast<std::ptrdiff_t>(used.size() / 2);
    std::nth_element(used.begin(), middle, used.end());
    std::erase_if(entries_, [limit = *middle](const auto& of) {
      const Entry& entry = of.second;
      return entry.used < limit && (entry.plan == nullptr || !entry.plan->captured);
    });
  }

  size_t most_;
  std::map<PlanKey, Entry> entries_;
  uint64_t uses_ = 0;
};

}  // namespace lockstep::cuda
