#include "lockstep/runtime/capture.h"

#include <algorithm>

#include "lockstep/runtime/backend.h"

namespace lockstep {

void at_each_replay(std::function<void()> effect, const void* of, bool marked) {
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
  notes->effects.push_back({std::move(effect), of, reached});
}

Replay::Replay(const CaptureNotes& notes)
    : notes_(notes), before_(std::exchange(context().replay, this)) {}

Replay::~Replay() { context().replay = before_; }

void Replay::do_effects() {
  for (next_ = 0; next_ < notes_.effects.size(); ++next_) notes_.effects[next_].run();
}

bool Replay::is_to_come(const void* of) const {
  return std::any_of(notes_.effects.begin() + static_cast<std::ptrdiff_t>(next_) + 1,
                     notes_.effects.end(),
                     [of](const CaptureNotes::Effect& effect) { return effect.of == of; });
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
