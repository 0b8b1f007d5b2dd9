#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace lockstep {

struct WorkState;

// The last collectives of one rank, oldest first: what was asked for, and when it was queued, begun
// and over. A communicator has one and its splits share it. Thread-safe, and cheap: it keeps the
// states that the collectives have anyway.
class FlightRecorder {
 public:
  using Clock = std::chrono::steady_clock;

  explicit FlightRecorder(size_t capacity = 2000) : capacity_(capacity) {}

  struct Entry {
    uint64_t sequence = 0;  // within its communicator
    std::string communicator;
    std::string signature;  // "all_reduce(mean) of 1000 f32"
    std::string what;
    int bucket = -1;
    int64_t step = 0;
    std::string phase;
    Clock::time_point queued;
    std::optional<Clock::time_point> begun;
    std::optional<Clock::time_point> ended;
    std::string error;  // of one that failed

    // `all_reduce(mean) of 1000 f32 "gradients", bucket 3`: what ranks must do alike.
    std::string call() const;
  };

  void add(std::shared_ptr<const WorkState> work);
  std::vector<Entry> entries() const;
  // The newest collective of the communicator of that name; none yet: empty.
  std::optional<Entry> last(const std::string& communicator) const;
  // The newest that has begun.
  std::optional<Entry> last_begun(const std::string& communicator) const;

  // {"rank": 1, "collectives": [{"sequence": …, "state": "queued|running|done|failed", …}, …]},
  // times in seconds before now.
  std::string to_json(int rank) const;
  // The Trace Event Format that chrome://tracing and Perfetto read; microseconds from `origin`, one
  // process a rank, one thread a communicator. What was queued before `origin` is left out.
  std::string to_chrome_trace(int rank, Clock::time_point origin = {}) const;

 private:
  std::optional<Entry> newest(const std::function<bool(const WorkState&)>& is_meant) const;

  size_t capacity_;
  mutable std::mutex mutex_;
  std::deque<std::shared_ptr<const WorkState>> works_;
};

}  // namespace lockstep
