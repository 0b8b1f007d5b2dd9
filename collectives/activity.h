#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

namespace lockstep {

// What a rank says that it does: a step, and in it phases, one inside the other. Errors, the record
// of collectives and the watch over late ranks read it. A communicator has one and its splits share
// it. Thread-safe; phases begin and end on one thread.
class Activity {
 public:
  using Clock = std::chrono::steady_clock;
  using Milliseconds = std::chrono::milliseconds;

  struct Moment {
    int64_t step = 0;
    std::string phase = "idle";
    Clock::time_point since = Clock::now();  // of the phase

    std::string describe() const;  // `step 17, phase backward`
  };
  // The innermost phase. One that an exception has left still counts, until the next begins.
  Moment now() const;
  void set_step(int64_t step);

  // How long from now this rank will not be late, whatever it does: by the allowances of its
  // phases, and for `timeout` after the end of the last that had one.
  Milliseconds allowance(Milliseconds timeout) const;
  // Grows with every change.
  uint64_t changes() const;

  // What this rank does while one lives. It is not late for `allowance` from its beginning.
  class Phase {
   public:
    Phase(Activity& activity, std::string_view name, Milliseconds allowance = {});
    ~Phase();
    Phase(const Phase&) = delete;
    Phase& operator=(const Phase&) = delete;

   private:
    friend class Activity;
    Activity& activity_;
    std::string name_;
    Milliseconds allowance_;
    Clock::time_point began_ = Clock::now();
    Phase* outer_ = nullptr;
    int exceptions_;
  };

 private:
  mutable std::mutex mutex_;
  int64_t step_ = 0;
  Phase* phase_ = nullptr;      // innermost
  std::optional<Moment> left_;  // by an exception
  Clock::time_point idle_since_ = Clock::now();
  std::optional<Clock::time_point> allowance_ended_;
  uint64_t changes_ = 0;
};

}  // namespace lockstep
