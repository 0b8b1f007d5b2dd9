#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace lockstep {

// By this machine's clock.
double seconds_since_1970();

// What a rank says of itself, every half second or so.
struct Beat {
  int64_t count = 0;  // grows with every beat
  double time = seconds_since_1970();
  int64_t step = 0;
  std::string phase;           // "backward", "data", "validation", …
  double phase_seconds = 0;    // since it began
  double allowed_seconds = 0;  // how much longer the phase may take without being late
  uint64_t sequence = 0;       // of the last collective of the world
  std::string collective;      // `all_reduce(mean) of 1000 f32 "gradients", bucket 3`; empty: none
  std::string state;           // "queued", "running", "done", "failed"
  double collective_seconds = 0;  // since it came to that state
  uint64_t begun = 0;             // the last that has begun: a device's host may be ahead of it

  std::string to_text() const;
  // Nothing where the text is no beat.
  static std::optional<Beat> parse(std::string_view text);

  // `in step 17, phase backward for 2.1 s; its last collective, #41 all_reduce …, is done since
  // 1.9 s`, as seen now: so far as the clocks of the ranks' machines agree.
  std::string describe() const;
};

}  // namespace lockstep
