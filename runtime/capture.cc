#include "lockstep/runtime/capture.h"

#include "lockstep/runtime/backend.h"

namespace lockstep {

void at_each_replay(std::function<void()> effect, bool marked) {
  CaptureNotes* notes = context().capture;
  if (notes == nullptr) return effect();
  std::shared_ptr<const Mark> reached;
  if (marked) reached = notes->backend->mark_in_capture();
  // For those before it, too, that have no place of their own.
  for (auto before = notes->effects.rbegin(); reached && before != notes->effects.rend();
       ++before) {
    if (before->reached) break;
    before->reached = reached;
  }
  notes->effects.push_back({std::move(effect), reached});
}

void do_effects(const CaptureNotes& notes) {
  std::shared_ptr<const Mark>& reached = context().reached;
  try {
    for (const CaptureNotes::Effect& effect : notes.effects) {
      reached = effect.reached;
      effect.run();
    }
  } catch (...) {
    reached.reset();
    throw;
  }
  reached.reset();
}

Array Uploads::next(const Shape& shape, DType dtype, Device device) {
  const size_t place = next_++;
  if (place == places_.size()) places_.emplace_back();
  Array& array = places_[place];
  if (!array || array.shape() != shape || array.dtype() != dtype || array.device() != device) {
    array = Array::empty(shape, dtype, device);
    moved_ = true;
  }
  array.storage()->bump_version();
  return array;
}

}  // namespace lockstep
