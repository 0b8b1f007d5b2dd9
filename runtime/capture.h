#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "lockstep/runtime/array.h"
#include "lockstep/runtime/context.h"

// What a pass does beside queueing work on a device, where the device does the pass again by itself
// (Backend::begin_capture): nn/captured_passes.h puts these into the context.
namespace lockstep {

class Backend;
class Mark;

struct CaptureNotes {
  // What the host does in the pass, to be done with each replay, once that has begun.
  struct Effect {
    std::function<void()> run;
    const void* of;  // whose it is; null: nobody asks
    // A place of the pass behind which it comes; null: the end.
    std::shared_ptr<const Mark> reached;
  };
  std::vector<Effect> effects;
  Backend* backend = nullptr;  // that captures
  // Integers that were found within bounds, as what replaces them has to be.
  struct Bound {
    Ref<Storage> storage;
    Storage::Extent within;
    std::optional<int64_t> except = {};  // a value that may lie anywhere
  };
  std::vector<Bound> bounds;
};

// Does `effect`, now or as often as the pass is done: counts a batch, tells of a gradient.
// `marked`: a replay is to know when it has come so far.
void at_each_replay(std::function<void()> effect, const void* of = nullptr, bool marked = false);

// The host's part of a replay that has begun: context().replay while it lives.
class Replay {
 public:
  explicit Replay(const CaptureNotes& notes);
  ~Replay();
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

  void do_effects();
  // A place of the replay that lies behind all that comes before the effect that is being done.
  // Null: only what is queued now lies behind it.
  const std::shared_ptr<const Mark>& reached() const { return notes_.effects[next_].reached; }
  // Whether an effect of this one is still to be done, after the one that is.
  bool is_to_come(const void* of) const;

 private:
  const CaptureNotes& notes_;
  size_t next_ = 0;
  const Replay* before_;
};

// The arrays that are brought to a device for a pass, in order, at places that stay: what is
// brought next time overwrites them.
class Uploads {
 public:
  // Where the next one goes. A place of another shape or dtype is replaced.
  Array next(const Shape& shape, DType dtype, Device device);
  // Before each pass.
  void rewind() {
    next_ = 0;
    moved_ = false;
  }
  // An array was made on the device that nobody brings: it lies elsewhere each time.
  void note_made() { moved_ = true; }
  // Whether what was brought since went where it did the time before, and nothing else was made.
  bool stayed() const { return !moved_ && next_ == places_.size(); }

 private:
  std::vector<Array> places_;
  size_t next_ = 0;
  bool moved_ = false;
};

}  // namespace lockstep
