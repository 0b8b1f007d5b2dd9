#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <string>
#include <string_view>

#include "lockstep/collectives/activity.h"
#include "lockstep/collectives/communicator.h"

namespace lockstep::train {

// What the ranks did when: the phases of their steps and their collectives, for a trace that
// chrome://tracing and Perfetto read. Keeps the last 20,000 phases of this rank. For the thread
// that trains.
class Timeline {
 public:
  using Clock = std::chrono::steady_clock;

  // A collective call: time is counted from here on all ranks.
  explicit Timeline(Communicator& communicator);

  void add(std::string_view name, int64_t step, Clock::time_point begin, Clock::time_point end);
  // A collective call. Rank 0 writes one file with what the first eight ranks did. Throws Error.
  void write(const std::filesystem::path& file) const;

 private:
  struct Span {
    std::string name;
    int64_t step;
    Clock::time_point begin, end;
  };
  std::string events() const;

  Communicator& communicator_;
  Clock::time_point origin_;
  std::deque<Span> spans_;
};

// What this rank does while one lives: known to those who watch, added to a counter of seconds
// where there is one, and kept for the trace where there is one.
class Phase {
 public:
  struct Options {
    Activity::Milliseconds allowance{0};  // as Activity::Phase has it
    double* seconds = nullptr;
    Timeline* timeline = nullptr;
  };
  Phase(Activity& activity, std::string_view name, const Options& options)
      : name_(name),
        options_(options),
        step_(activity.now().step),
        phase_(activity, name, options.allowance) {}
  ~Phase() {
    const Timeline::Clock::time_point end = Timeline::Clock::now();
    if (options_.seconds != nullptr) {
      *options_.seconds += std::chrono::duration<double>(end - begin_).count();
    }
    if (options_.timeline != nullptr) options_.timeline->add(name_, step_, begin_, end);
  }
  Phase(const Phase&) = delete;
  Phase& operator=(const Phase&) = delete;

 private:
  std::string_view name_;
  Options options_;
  int64_t step_;
  Timeline::Clock::time_point begin_ = Timeline::Clock::now();
  Activity::Phase phase_;
};

}  // namespace lockstep::train
