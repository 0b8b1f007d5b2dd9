#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "lockstep/collectives/communicator.h"
#include "lockstep/collectives/reduce_cpu.h"
#include "lockstep/collectives/split.h"
#include "lockstep/collectives/work_state.h"

namespace lockstep {
namespace {

using Works = std::vector<std::shared_ptr<WorkState>>;  // by rank

// Bytes of one rank combined at a time, so that what was summed is still in cache when copied out.
constexpr int64_t kChunkBytes = 1 << 18;

void all_reduce(const Works& works) {
  const WorkState& first = *works.front();
  const int64_t width = static_cast<int64_t>(size_of(first.dtype));
  const int64_t chunk = kChunkBytes / width;
  std::vector<void*> values(works.size());
  for (int64_t start = 0; start < first.elements; start += chunk) {
    for (size_t rank = 0; rank < works.size(); ++rank) {
      values[rank] = static_cast<char*>(works[rank]->output.data()) + start * width;
    }
    const std::vector<const void*> inputs(values.begin(), values.end());
    reduce_in_order(first.reduction, first.dtype, inputs, values,
                    std::min(chunk, first.elements - start));
  }
}

void reduce_scatter(const Works& works) {
  const WorkState& first = *works.front();
  const size_t slice_bytes = static_cast<size_t>(first.elements) * size_of(first.dtype);
  std::vector<const void*> inputs(works.size());
  // A result may lie in its rank's own input, in the slice that only this round reads.
  for (size_t slice = 0; slice < works.size(); ++slice) {
    for (size_t rank = 0; rank < works.size(); ++rank) {
      inputs[rank] = static_cast<const char*>(works[rank]->input.data()) + slice * slice_bytes;
    }
    void* const output[] = {works[slice]->output.data()};
    reduce_in_order(first.reduction, first.dtype, inputs, output, first.elements);
  }
}

void copy(void* to, const void* from, size_t bytes) {
  if (bytes > 0 && to != from) std::memcpy(to, from, bytes);
}

void all_gather(const Works& works) {
  for (const auto& to : works) {
    for (size_t rank = 0; rank < works.size(); ++rank) {
      const size_t bytes = works[rank]->input.bytes();
      copy(static_cast<char*>(to->output.data()) + rank * bytes, works[rank]->input.data(), bytes);
    }
  }
}

void broadcast(const Works& works) {
  const Array& source = works[static_cast<size_t>(works.front()->root)]->input;
  for (const auto& to : works) copy(to->output.data(), source.data(), source.bytes());
}

void execute(const Works& works) {
  switch (works.front()->collective) {
    case Collective::all_reduce: return all_reduce(works);
    case Collective::reduce_scatter: return reduce_scatter(works);
    case Collective::all_gather: return all_gather(works);
    case Collective::broadcast: return broadcast(works);
    case Collective::barrier:
    case Collective::split: return;
  }
}

// What the ranks share. The last rank to arrive at a collective does its arithmetic inside its
// call, so nobody polls and a dropped Work holds nobody up. A rank may run any number of
// collectives ahead of the others.
class ThreadGroup final : public Transport, public std::enable_shared_from_this<ThreadGroup> {
 public:
  explicit ThreadGroup(int size) : size_(size), left_(static_cast<size_t>(size), false) {}

  int size() const { return size_; }

  void arrive(const std::shared_ptr<WorkState>& work) {
    work->transport = shared_from_this();
    Works complete;
    {
      const std::lock_guard lock(mutex_);
      complete = enter(work);
    }
    if (complete.empty()) return;
    for (const auto& each : complete) each->begin();
    execute(complete);
    for (const auto& each : complete) each->finish();
  }

  void leave(int rank) {
    const std::lock_guard lock(mutex_);
    left_[static_cast<size_t>(rank)] = true;
    for (const auto& [sequence, works] : started_) {
      if (works[static_cast<size_t>(rank)] == nullptr)
        return fail_all(left_message(static_cast<size_t>(rank)));
    }
  }

  void abort(std::string_view reason) {
    const std::lock_guard lock(mutex_);
    fail_all(reason);
  }

  // The group of those who passed `color` in the split that ended at `sequence`; the first to ask
  // makes it, the last takes it out of the list.
  std::shared_ptr<ThreadGroup> part(uint64_t sequence, int color, int size) {
    const std::lock_guard lock(mutex_);
    auto& [group, asked] = parts_[{sequence, color}];
    if (group == nullptr) {
      group = std::make_shared<ThreadGroup>(size);
      children_.push_back(group);
    }
    std::shared_ptr<ThreadGroup> result = group;
    if (++asked == size) parts_.erase({sequence, color});
    if (broken_) result->abort(*broken_);
    return result;
  }

  Clock::time_point last_progress() const override {
    return Clock::time_point(Clock::duration(progress_.load(std::memory_order_relaxed)));
  }

  void give_up(WorkState& work, std::string_view reason) override {
    const std::lock_guard lock(mutex_);
    const auto found = started_.find(work.sequence);
    if (found == started_.end()) return note_progress();  // all are there, and one computes
    std::string missing;
    for (size_t rank = 0; rank < found->second.size(); ++rank) {
      if (found->second[rank] != nullptr) continue;
      missing += concat({missing.empty() ? "" : ", ", rank});
    }
    fail_all(
        concat({"no progress for ", work.timeout.count(), " ms in ", name_of(work.collective), " #",
                work.sequence, "; ranks not seen: ", missing, reason.empty() ? "" : "; ", reason}));
  }

 private:
  // Returns the works of all ranks when `work` was the last.
  Works enter(const std::shared_ptr<WorkState>& work) {
    Works& works = started_[work->sequence];
    works.resize(static_cast<size_t>(size_));
    const std::optional<std::string> obstacle = find_obstacle(works, *work);
    works[static_cast<size_t>(work->rank)] = work;
    if (obstacle) {
      fail_all(*obstacle);
      return {};
    }
    note_progress();
    if (std::count(works.begin(), works.end(), nullptr) > 0) return {};
    Works complete = std::move(works);
    started_.erase(work->sequence);
    return complete;
  }

  // Why `work` cannot succeed beside those of `works`, if so.
  std::optional<std::string> find_obstacle(const Works& works, const WorkState& work) const {
    if (broken_) return broken_;
    for (size_t rank = 0; rank < works.size(); ++rank) {
      if (works[rank] == nullptr && left_[rank]) return left_message(rank);
      if (works[rank] != nullptr && !works[rank]->matches(work)) {
        return mismatch_message(*works[rank], work);
      }
    }
    return std::nullopt;
  }

  void note_progress() {
    progress_.store(Clock::now().time_since_epoch().count(), std::memory_order_relaxed);
  }

  static std::string left_message(size_t rank) {
    return concat({"rank ", rank, " has left the group"});
  }

  static std::string mismatch_message(const WorkState& a, const WorkState& b) {
    return concat({"ranks called different collectives: ", a.describe(), ", ", a.signature(), "; ",
                   b.describe(), ", ", b.signature()});
  }

  // Called with the mutex held. Everything started and not complete, and all that follows, fails.
  void fail_all(std::string_view reason) {
    if (!broken_) broken_ = reason;
    for (const auto& [sequence, works] : started_) {
      for (const auto& work : works) {
        if (work != nullptr) work->fail(*broken_);
      }
    }
    started_.clear();
    for (const auto& child : children_) {
      if (const auto group = child.lock()) group->abort(*broken_);
    }
  }

  const int size_;
  std::mutex mutex_;
  std::map<uint64_t, Works> started_;  // by sequence number
  std::vector<bool> left_;
  std::optional<std::string> broken_;
  std::map<std::pair<uint64_t, int>, std::pair<std::shared_ptr<ThreadGroup>, int>> parts_;
  std::vector<std::weak_ptr<ThreadGroup>> children_;
  std::atomic<Clock::rep> progress_{0};
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<ThreadGroup> group, int rank)
      : Communicator(rank, group->size()), group_(std::move(group)) {}
  ~ThreadCommunicator() override { group_->leave(rank()); }

  std::string_view backend() const override { return "threads"; }

  std::unique_ptr<Communicator> split(int color, int key) override {
    const SplitPlace place = agree_on_split(*this, color, key);
    auto part = std::make_unique<ThreadCommunicator>(
        group_->part(collectives_started(), color, place.size), place.rank);
    part->descend_from(*this, color);
    return part;
  }

  void abort(std::string_view reason) override { group_->abort(reason); }

 private:
  void start(const std::shared_ptr<WorkState>& work) override { group_->arrive(work); }

  std::shared_ptr<ThreadGroup> group_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> make_thread_group(int size) {
  LOCKSTEP_CHECK(size > 0, "a thread group of ", size, " ranks");
  const auto group = std::make_shared<ThreadGroup>(size);
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int rank = 0; rank < size; ++rank) {
    ranks.push_back(std::make_unique<ThreadCommunicator>(group, rank));
  }
  return ranks;
}

}  // namespace lockstep
