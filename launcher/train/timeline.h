#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <exception>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "lockstep/collectives/activity.h"
#include "lockstep/collectives/communicator.h"
#include "lockstep/launcher/train/metrics.h"
#include "lockstep/runtime/backend.h"

namespace lockstep::train {

// What the ranks did when: the phases of their steps and their collectives, for a trace that
// chrome://tracing and Perfetto read. Keeps the last 20,000 phases of this rank. For the thread
// that trains.
class Timeline {
 public:
  using Clock = std::chrono::steady_clock;

  // A collective call: time is counted from here on all ranks.
  explicit Timeline(Communicator& communicator);

  // `of_device`: what a device did, whatever the host did meanwhile.
  void add(std::string_view name, int64_t step, Clock::time_point begin, Clock::time_point end,
           bool of_device = false);
  // A collective call. Rank 0 writes one file with what the first eight ranks did. Throws Error.
  void write(const std::filesystem::path& file) const;
  // Throws Error where a file cannot be written there, and makes its folder.
  static void check_file(const std::filesystem::path& file);

 private:
  struct Span {
    std::string name;
    int64_t step;
    Clock::time_point begin, end;
    bool of_device;
  };
  std::string events() const;

  Communicator& communicator_;
  Clock::time_point origin_;
  std::deque<Span> spans_;
};

// What a device did in phases whose host only queued it, by marks among its work.
class DeviceTimes {
 public:
  explicit DeviceTimes(Backend& backend) : backend_(backend) {}

  struct Span {
    std::string name;
    int64_t step;
    double StepTimes::*seconds;
    std::unique_ptr<Mark> begin, end;
  };
  // Null: what is asked of the device is timed as the host's.
  std::unique_ptr<Mark> mark() { return backend_.mark(); }
  void add(Span span) { spans_.push_back(std::move(span)); }
  // For when the host has waited for the device: adds what that has done since the last call to
  // `times` and to the timeline, if any. A span that it is still in is left to the next call.
  void collect(StepTimes& times, Timeline* timeline);

 private:
  Backend& backend_;
  std::deque<Span> spans_;
};

// What this rank does while one lives: known to those who watch, added to the step's times where
// there is a place for it, and kept for the trace where there is one.
class Phase {
 public:
  struct Options {
    Activity::Milliseconds allowance{0};  // as Activity::Phase has it
    StepTimes* times = nullptr;
    double StepTimes::*seconds = nullptr;
    DeviceTimes* device = nullptr;  // that is timed instead of the host, where there is one
    Timeline* timeline = nullptr;
  };
  Phase(Activity& activity, std::string_view name, const Options& options);
  ~Phase();
  Phase(const Phase&) = delete;
  Phase& operator=(const Phase&) = delete;

 private:
  void end_on_device() noexcept;

  std::string_view name_;
  Options options_;
  int64_t step_;
  Timeline::Clock::time_point begin_ = Timeline::Clock::now();
  std::unique_ptr<Mark> mark_;
  const int exceptions_ = std::uncaught_exceptions();
  Activity::Phase phase_;
};

}  // namespace lockstep::train
