#include "lockstep/runtime/cuda/queue.h"

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
  driver_.copy(to, from, bytes, stream_);
  driver_.synchronize(stream_);
}

Scratch::Scratch(Queue& queue, size_t bytes)
    : memory_(queue.memory()), data_(bytes == 0 ? nullptr : memory_.allocate(bytes, "scratch")) {}

Scratch::~Scratch() { memory_.deallocate(data_); }

}  // namespace lockstep::cuda
