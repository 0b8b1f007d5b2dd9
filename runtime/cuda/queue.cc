#include "lockstep/runtime/cuda/queue.h"

#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/cuda/driver.h"
#include "lockstep/runtime/cuda/memory.h"

namespace lockstep::cuda {
namespace {

thread_local Detour* own_detour = nullptr;

}  // namespace

Detour::Detour(const Queue& queue, Stream stream, const uint32_t* base, const RandomKey& key)
    : queue_(queue), stream_(stream), base_(base), key_(key) {
  LOCKSTEP_CHECK(own_detour == nullptr, "a capture within a capture");
  own_detour = this;
}

Detour::~Detour() { own_detour = nullptr; }

bool Detour::is_on() { return own_detour != nullptr; }

Stream Queue::stream() const {
  driver_.use();
  return own_stream();
}

Stream Queue::own_stream() const {
  const Detour* detour = own_detour;
  return detour == nullptr || &detour->queue_ != this ? stream_ : detour->stream_;
}

void Queue::copy(void* to, const void* from, size_t bytes) {
  if (bytes != 0) driver_.copy(to, from, bytes, own_stream());
}

void Queue::set_zero(void* to, size_t bytes) {
  if (bytes != 0) driver_.set_zero(to, bytes, own_stream());
}

void Queue::read(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  refuse_capture("a value that the host waits for");
  driver_.copy(to, from, bytes, own_stream());
  driver_.synchronize(own_stream());
}

bool Queue::captures() const {
  const Detour* detour = own_detour;
  return detour != nullptr && &detour->queue_ == this && detour->base_ != nullptr;
}

void Queue::refuse_capture(const char* what) const {
  if (captures()) throw NotCapturable(concat({what, " cannot be captured"}));
}

DeviceKey Queue::device_key(const RandomKey& key) {
  if (!captures()) return {key};
  Detour& detour = *own_detour;
  detour.draws_ = true;
  DeviceKey result{key, detour.base_};
  result.key.step -= detour.key_.step;
  result.key.first_sample -= detour.key_.first_sample;
  result.key.operation -= detour.key_.operation;
  return result;
}

Scratch::Scratch(Queue& queue, size_t bytes)
    : memory_(queue.memory()), data_(bytes == 0 ? nullptr : memory_.allocate(bytes, "scratch")) {}

Scratch::~Scratch() { memory_.deallocate(data_); }

}  // namespace lockstep::cuda
