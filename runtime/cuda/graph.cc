#include "lockstep/runtime/cuda/graph.h"

namespace lockstep::cuda {

CudaGraph::CudaGraph(Driver& driver, Memory& memory, Queue& queue, Stream stream,
                     const RandomKey& key)
    : driver_(driver), memory_(memory), queue_(queue), stream_(stream) {
  memory_.begin_capture();
  try {
    base_ = static_cast<uint32_t*>(memory_.allocate(3 * sizeof(uint32_t), "captured pass"));
    driver_.begin_capture(stream_);
  } catch (...) {
    memory_.deallocate(base_);
    memory_.end_capture();
    memory_.release_capture();
    throw;
  }
  detour_.emplace(queue_, stream_, base_, key);
}

CudaGraph::~CudaGraph() {
  if (detour_) {
    leave();
    driver_.abandon_capture(stream_);
  }
  if (graph_ != nullptr) driver_.destroy(graph_);
  memory_.deallocate(base_);
  memory_.release_capture();
}

void CudaGraph::leave() {
  draws_ = detour_->draws();
  detour_.reset();
  memory_.end_capture();
}

void CudaGraph::end() {
  leave();
  graph_ = driver_.end_capture(stream_, queue_.stream());
  if (graph_ == nullptr) throw NotCapturable("CUDA could not capture what was queued");
}

void CudaGraph::replay(const RandomKey& now) {
  if (draws_) {
    const uint32_t base[] = {now.step, now.first_sample, now.operation};
    queue_.copy(base_, base, sizeof base);
  }
  driver_.launch(graph_, queue_.stream());
}

}  // namespace lockstep::cuda
