#include "lockstep/runtime/cuda/queue.h"

#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/cuda/driver.h"
#include "lockstep/runtime/cuda/memory.h"

namespace lockstep::cuda {

Stream Queue::stream() const {
  driver_.use();
  return stream_;
}

void Queue::copy(void* to, const void* from, size_t bytes) {
  if (bytes != 0) driver_.copy(to, from, bytes, stream_);
}

void Queue::set_zero(void* to, size_t bytes) {
  if (bytes != 0) driver_.set_zero(to, bytes, stream_);
}

void Queue::read(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  refuse_capture("a value that the host waits for");
  driver_.copy(to, from, bytes, stream_);
  driver_.synchronize(stream_);
}

void Queue::begin_capture(const uint32_t* base, const RandomKey& key) {
  base_ = base;
  captured_key_ = key;
  draws_ = false;
}

bool Queue::end_capture() {
  base_ = nullptr;
  return draws_;
}

void Queue::refuse_capture(const char* what) const {
  if (base_ != nullptr) throw NotCapturable(concat({what, " cannot be captured"}));
}

DeviceKey Queue::device_key(const RandomKey& key) {
  if (base_ == nullptr) return {key};
  draws_ = true;
  DeviceKey result{key, base_};
  result.key.step -= captured_key_.step;
  result.key.first_sample -= captured_key_.first_sample;
  result.key.operation -= captured_key_.operation;
  return result;
}

Scratch::Scratch(Queue& queue, size_t bytes)
    : memory_(queue.memory()), data_(bytes == 0 ? nullptr : memory_.allocate(bytes, "scratch")) {}

Scratch::~Scratch() { memory_.deallocate(data_); }

}  // namespace lockstep::cuda
