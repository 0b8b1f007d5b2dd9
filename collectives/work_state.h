#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "lockstep/collectives/communicator.h"
#include "lockstep/collectives/work.h"
#include "lockstep/runtime/array.h"

namespace lockstep {

enum class Collective : uint8_t {
  all_reduce,
  reduce_scatter,
  all_gather,
  broadcast,
  barrier,
  split
};

std::string_view name_of(Collective collective);
std::string_view name_of(ReduceOp reduction);

// What a waiting Work sees of the transport that carries it. Thread-safe.
class Transport {
 public:
  using Clock = std::chrono::steady_clock;

  virtual ~Transport() = default;
  // Returns when the caller may use the result, or `work` has failed. By default it blocks until
  // the work is over, and gives it up where nothing advances. On a device it may return before
  // that, once the caller's stream waits: the transport itself then sees to the deadline.
  virtual void wait(WorkState& work);
  // When a collective of this transport last advanced.
  virtual Clock::time_point last_progress() const = 0;
  // Nothing advanced for `work`'s timeout. Fails it, with all that cannot succeed after it, unless
  // it has advanced by now. `reason` says more than the transport can see, where it is not empty.
  virtual void give_up(WorkState& work, std::string_view reason) = 0;
};

// Asked when nothing has advanced for a collective's timeout: why it is to fail, or nothing where
// it is to be waited for longer. Called by the thread that waits.
using LateHandler = std::function<std::optional<std::string>(const WorkState& work)>;

// One rank's side of a started collective, between transports and those who wait. The description
// is complete before the transport sees it, and fixed from then on.
struct WorkState {
  Collective collective = Collective::barrier;
  ReduceOp reduction = ReduceOp::sum;
  int root = -1;
  Array input;   // what this rank gives; all_reduce and broadcast: same as `output`
  Array output;  // what it gets
  DType dtype = DType::u8;
  int64_t elements = 0;  // of one rank's contribution (reduce_scatter: of its result)

  uint64_t sequence = 0;     // counts this communicator's collectives from 1
  std::string communicator;  // its name: "world", "world/1"
  std::string what;
  int bucket = -1;
  std::shared_ptr<const Mark> ready;  // as in CollectiveOptions
  int64_t step = 0;                   // of the activity when it was started, as is the phase
  std::string phase;
  int rank = 0;
  int size = 1;
  std::chrono::milliseconds timeout{0};
  std::shared_ptr<Transport> transport;
  std::shared_ptr<const LateHandler> late;  // null: nobody is asked

  // `all_reduce #12 "gradients", bucket 3, on rank 1 of 4, step 7, phase backward`
  std::string describe() const;
  // What the ranks must agree on, beside sequence and bucket: `all_reduce(sum) of 1000 f32`
  std::string signature() const;
  // `all_reduce(sum) of 1000 f32 as #12 "gradients", bucket 3, step 7, phase backward`
  std::string describe_call() const;
  bool matches(const WorkState& other) const;
  // Of what `matches` compares: the same on all machines.
  uint64_t fingerprint() const;

  // For transports. `begin` starts the clock of `duration`; the first of `finish` and `fail`
  // counts. `finish` lets the arrays go, so only the thread that uses them may call it.
  void begin();
  void finish();
  void finish(std::chrono::nanoseconds duration);  // instead of what the clock says
  void fail(std::string_view reason);

  struct Progress {
    std::chrono::steady_clock::time_point queued;
    std::optional<std::chrono::steady_clock::time_point> begun, ended;
    std::string error;
  };
  Progress progress() const;

  bool done() const { return done_.load(std::memory_order_acquire); }
  void wait();
  void wait_until_done();  // and no longer than its deadline; throws nothing
  std::chrono::nanoseconds duration() const;

 private:
  using Clock = Transport::Clock;

  bool conclude(std::optional<std::string> error,
                std::optional<std::chrono::nanoseconds> duration = std::nullopt);
  std::string describe_number() const;
  std::string describe_moment() const;

  mutable std::mutex mutex_;
  std::condition_variable concluded_;
  std::atomic<bool> done_{false};
  std::optional<std::string> error_;
  Clock::time_point queued_ = Clock::now();
  std::optional<Clock::time_point> begun_;
  std::optional<Clock::time_point> ended_;
};

}  // namespace lockstep
