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
    // A place of the pass behind which it comes; null: the end. A later one than it asked for
    // where it asked for none.
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
// `marked`: it wants to know where in a replay its turn has come (do_effects).
void at_each_replay(std::function<void()> effect, bool marked = false);
// After a replay has begun. Each finds in context().reached behind which place of it it comes.
void do_effects(const CaptureNotes& notes);

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
