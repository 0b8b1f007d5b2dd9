#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/collectives/nccl/library.h"
#include "lockstep/collectives/reduce_cpu.h"
#include "support/fake_stream.h"

// NCCL and CUDA's streams on the host: ranks are threads of this process, memory of the device is
// the host's. Ranks that differ in what they call, or are missing, hang; the real one may also let
// those that differ pass, with wrong values.
namespace lockstep::testing {

// What the libraries of all ranks share, and how things go wrong. Thread-safe.
class FakeNetwork {
 public:
  // The first collective of a group is in progress until all its ranks have called one.
  explicit FakeNetwork(bool connects_late = false) : connects_late_(connects_late) {}

  // While paused no collective ends.
  void set_paused(bool paused) {
    const std::lock_guard lock(mutex_);
    paused_ = paused;
    changed_.notify_all();
  }
  // From now on the groups of this rank are in this state.
  void break_rank(int rank, int code) {
    const std::lock_guard lock(mutex_);
    broken_[rank] = code;
  }
  int aborts(int rank) {
    const std::lock_guard lock(mutex_);
    return aborts_[rank];
  }

 private:
  friend class FakeNccl;

  struct Call {
    char kind = 0;
    const void* input = nullptr;
    void* output = nullptr;
    int64_t count = 0;
    DType dtype = DType::u8;
    ReduceOp reduction = ReduceOp::sum;
    int root = -1;

    bool matches(const Call& other) const {
      return kind == other.kind && count == other.count && dtype == other.dtype &&
             reduction == other.reduction && root == other.root;
    }
    size_t bytes() const { return static_cast<size_t>(count) * size_of(dtype); }
  };
  struct Round {
    std::map<int, Call> calls;  // by rank
    bool dead = false;          // a rank was aborted in it
    bool over = false;
  };
  struct Group {
    int size = 0;  // 0: not known yet
    int joined = 0, connected = 0, finalized = 0;
    std::map<uint64_t, Round> rounds;
    std::map<uint64_t, std::map<int, std::array<int, 2>>> splits;  // color and key by rank
    std::map<std::pair<uint64_t, int>, std::shared_ptr<Group>> parts;
  };

  static void execute(const Round& round, int size) {
    const Call& first = round.calls.begin()->second;
    if (size == 1 && first.input == first.output) return;  // nothing changes
    const auto place = [&](void* data, int64_t part) {
      return static_cast<char*>(data) + static_cast<size_t>(part) * first.bytes();
    };
    std::vector<const void*> inputs(static_cast<size_t>(size));
    std::vector<void*> outputs(static_cast<size_t>(size));
    const int parts = first.kind == 's' ? size : 1;
    for (int part = 0; part < parts && (first.kind == 'r' || first.kind == 's'); ++part) {
      for (const auto& [rank, call] : round.calls) {
        inputs[static_cast<size_t>(rank)] = place(const_cast<void*>(call.input), part);
        outputs[static_cast<size_t>(rank)] = call.output;
      }
      const std::span<void* const> all(outputs);
      reduce_in_order(first.reduction, first.dtype, inputs,
                      parts == 1 ? all : all.subspan(static_cast<size_t>(part), 1), first.count);
    }
    for (const auto& [to, receiver] : round.calls) {
      for (const auto& [from, sender] : round.calls) {
        if (first.kind == 'g') copy(place(receiver.output, from), sender.input, first.bytes());
        if (first.kind == 'b' && from == first.root) {
          copy(receiver.output, sender.input, first.bytes());
        }
      }
    }
  }
  static void copy(void* to, const void* from, size_t bytes) {
    if (bytes > 0 && to != from) std::memcpy(to, from, bytes);
  }

  const bool connects_late_;
  std::mutex mutex_;  // guards all below, and events
  std::condition_variable changed_;
  bool paused_ = false;
  int ids_ = 0;
  std::map<int, int> broken_, aborts_;  // by rank
  std::map<std::string, std::shared_ptr<Group>> worlds_;
};

// One rank's. A null stream is the calling thread: what is recorded there is done, and it waits.
class FakeNccl final : public nccl::Library {
 public:
  FakeNccl(FakeNetwork& network, int rank) : network_(network), rank_(rank) {}
  ~FakeNccl() {
    stream_.reset();
    for (void* block : staging_) std::free(block);
  }

  // While it says so there is no memory for staging.
  void set_full(const std::atomic<bool>* full) { full_ = full; }

  // How often something waited for an event that another library has made, which is taken as done.
  int foreign_waits() const { return foreign_; }

  int allocated() const { return allocated_; }
  int enrolled() const { return enrolled_; }

  int make_unique_id(nccl::UniqueId* id) override {
    const std::lock_guard lock(network_.mutex_);
    std::snprintf(id->bytes, sizeof id->bytes, "world %d", network_.ids_++);
    return 0;
  }

  int init(const nccl::UniqueId& id, int rank, int size) override {
    const std::lock_guard lock(network_.mutex_);
    auto& world = network_.worlds_[id.bytes];
    if (world == nullptr) world = std::make_shared<FakeNetwork::Group>();
    world->size = size;
    ++world->joined;
    groups_.push_back({.shared = world, .rank = rank, .under_way = [world] {
                         return world->joined < world->size;
                       }});
    return kInProgress;
  }

  int state(int group) override {
    const std::lock_guard lock(network_.mutex_);
    return state_of(groups_[static_cast<size_t>(group)]);
  }

  int split(int group, int color, int key, int* part) override {
    const std::lock_guard lock(network_.mutex_);
    auto& parent = groups_[static_cast<size_t>(group)];
    const auto shared = parent.shared;
    const uint64_t sequence = ++parent.splits;
    shared->splits[sequence][parent.rank] = {color, key};
    parent.under_way = [shared, sequence] {
      return static_cast<int>(shared->splits[sequence].size()) < shared->size;
    };
    *part = static_cast<int>(groups_.size());
    groups_.push_back({.resolve = [this, shared, sequence, color, key, part = *part] {
      int size = 0, rank = 0;
      for (const auto& [each, chosen] : shared->splits[sequence]) {
        if (chosen[0] != color) continue;
        ++size;
        if (chosen[1] < key) ++rank;
      }
      auto& result = shared->parts[{sequence, color}];
      if (result == nullptr) result = std::make_shared<FakeNetwork::Group>();
      result->size = size;
      groups_[static_cast<size_t>(part)].shared = result;
      groups_[static_cast<size_t>(part)].rank = rank;
    }});
    return kInProgress;
  }

  int abort(int group) override {
    const std::lock_guard lock(network_.mutex_);
    auto& local = groups_[static_cast<size_t>(group)];
    ++network_.aborts_[rank_];
    *local.aborted = true;
    if (local.shared != nullptr) {
      for (auto& [sequence, round] : local.shared->rounds) {
        if (!round.over && round.calls.contains(local.rank)) round.dead = true;
      }
    }
    network_.changed_.notify_all();
    return 0;
  }

  int finalize(int group) override {
    const std::lock_guard lock(network_.mutex_);
    auto& local = groups_[static_cast<size_t>(group)];
    ++local.shared->finalized;
    local.under_way = [shared = local.shared] { return shared->finalized < shared->size; };
    return kInProgress;
  }
  int destroy(int) override { return 0; }

  int all_reduce(int group, void* values, int64_t count, DType dtype, ReduceOp reduction) override {
    return issue(group, {'r', values, values, count, dtype, reduction});
  }
  int reduce_scatter(int group, const void* input, void* output, int64_t count, DType dtype,
                     ReduceOp reduction) override {
    return issue(group, {'s', input, output, count, dtype, reduction});
  }
  int all_gather(int group, const void* input, void* output, int64_t count, DType dtype) override {
    return issue(group, {'g', input, output, count, dtype});
  }
  int broadcast(int group, void* values, int64_t count, DType dtype, int root) override {
    return issue(group, {.kind = 'b',
                         .input = values,
                         .output = values,
                         .count = count,
                         .dtype = dtype,
                         .root = root});
  }

  int allocate(size_t bytes, void** data) override {
    *data = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    ++allocated_;
    return 0;
  }
  int free(void* data) override {
    std::free(data);
    --allocated_;
    return 0;
  }
  int enroll(int, void*, size_t, void**) override {
    ++enrolled_;
    return 0;
  }
  int withdraw(int, void*) override {
    --enrolled_;
    return 0;
  }

  int allocate_staging(size_t bytes, void** host, void** device) override {
    if (full_ != nullptr && *full_) return 2;
    for (void** block : {host, device}) staging_.push_back(*block = std::malloc(bytes));
    return 0;
  }
  int copy(void* to, const void* from, size_t bytes) override {
    stream_->push([=] { std::memcpy(to, from, bytes); });
    return 0;
  }

  nccl::Stream stream() override { return stream_.get(); }
  int make_event(nccl::Event* event) override {
    const std::lock_guard lock(network_.mutex_);
    *event = events_.emplace_back(std::make_unique<FakeEvent>()).get();
    return 0;
  }
  int record(nccl::Event event, nccl::Stream stream) override {
    auto* recorded = static_cast<FakeEvent*>(event);
    uint64_t number = 0;
    {
      const std::lock_guard lock(network_.mutex_);
      number = ++recorded->recorded;
    }
    queue(stream, [this, recorded, number] {
      const std::lock_guard lock(network_.mutex_);
      recorded->completed = number;
      recorded->time = Clock::now();
      network_.changed_.notify_all();
    });
    return 0;
  }
  int wait(nccl::Stream stream, nccl::Event event) override {
    if (!is_own(event)) return ++foreign_, 0;
    const auto* awaited = static_cast<FakeEvent*>(event);
    uint64_t number = 0;
    {
      const std::lock_guard lock(network_.mutex_);
      number = awaited->recorded;
    }
    queue(stream, [this, awaited, number] {
      std::unique_lock lock(network_.mutex_);
      network_.changed_.wait(lock, [&] { return awaited->completed >= number; });
    });
    return 0;
  }
  int query(nccl::Event event, bool* done) override {
    const auto* asked = static_cast<FakeEvent*>(event);
    const std::lock_guard lock(network_.mutex_);
    *done = asked->completed >= asked->recorded;
    return 0;
  }
  int elapsed(nccl::Event from, nccl::Event to, float* milliseconds) override {
    const std::lock_guard lock(network_.mutex_);
    const auto time = static_cast<FakeEvent*>(to)->time - static_cast<FakeEvent*>(from)->time;
    *milliseconds = std::chrono::duration<float, std::milli>(time).count();
    return 0;
  }

  void error_text(int code, int, char* text, int capacity) override {
    std::snprintf(text, static_cast<size_t>(capacity), "the fake says %d", code);
  }

 private:
  using Clock = std::chrono::steady_clock;

  struct FakeEvent {
    uint64_t recorded = 0, completed = 0;
    Clock::time_point time;
  };
  struct Local {
    std::shared_ptr<FakeNetwork::Group> shared = nullptr;  // null: a split that is under way
    int rank = 0;
    std::function<bool()> under_way = nullptr;
    std::function<void()> resolve = nullptr;
    uint64_t sequence = 0, splits = 0;
    std::shared_ptr<bool> aborted = std::make_shared<bool>(false);
  };

  bool is_own(nccl::Event event) {
    const std::lock_guard lock(network_.mutex_);
    return std::any_of(events_.begin(), events_.end(),
                       [&](const auto& own) { return own.get() == event; });
  }

  int state_of(Local& local) {
    if (network_.broken_.contains(rank_)) return network_.broken_[rank_];
    if (local.under_way && local.under_way()) return kInProgress;
    local.under_way = nullptr;
    // The parent has been seen to be ready.
    if (const auto resolve = std::exchange(local.resolve, nullptr)) resolve();
    return 0;
  }

  int issue(int group, const FakeNetwork::Call& call) {
    const std::lock_guard lock(network_.mutex_);
    Local& local = groups_[static_cast<size_t>(group)];
    const auto shared = local.shared;
    const uint64_t sequence = ++local.sequence;
    stream_->push([this, shared, call, sequence, rank = local.rank, aborted = local.aborted] {
      take_part(*shared, call, sequence, rank, *aborted);
    });
    if (!network_.connects_late_ || sequence > 1) return 0;
    ++shared->connected;
    local.under_way = [shared] { return shared->connected < shared->size; };
    return kInProgress;
  }

  void take_part(FakeNetwork::Group& group, const FakeNetwork::Call& call, uint64_t sequence,
                 int rank, const bool& aborted) {
    std::unique_lock lock(network_.mutex_);
    if (aborted) return;
    FakeNetwork::Round& round = group.rounds[sequence];
    round.calls[rank] = call;
    network_.changed_.notify_all();
    network_.changed_.wait(lock, [&] {
      if (aborted || round.over) return true;
      if (network_.paused_ || round.dead) return false;
      if (static_cast<int>(round.calls.size()) < group.size) return false;
      for (const auto& [each, theirs] : round.calls) {
        if (!theirs.matches(call)) return false;
      }
      FakeNetwork::execute(round, group.size);
      return round.over = true;
    });
    network_.changed_.notify_all();
  }

  static void queue(nccl::Stream stream, const std::function<void()>& task) {
    if (stream == nullptr) return task();
    static_cast<FakeStream*>(stream)->push(task);
  }

  FakeNetwork& network_;
  const int rank_;
  std::deque<Local> groups_;
  std::vector<std::unique_ptr<FakeEvent>> events_;
  std::vector<void*> staging_;
  const std::atomic<bool>* full_ = nullptr;
  std::atomic<int> allocated_{0}, enrolled_{0}, foreign_{0};
  std::unique_ptr<FakeStream> stream_ = std::make_unique<FakeStream>();
};

}  // namespace lockstep::testing
