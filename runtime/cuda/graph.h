#pragma once

#include <cstdint>
#include <optional>

#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/cuda/driver.h"
#include "lockstep/runtime/cuda/memory.h"
#include "lockstep/runtime/cuda/queue.h"

namespace lockstep::cuda {

// Work of a queue as a CUDA graph: what its thread queues from construction to end(). It is written
// down on a stream of its own, so that other threads may queue work meanwhile.
class CudaGraph final : public Capture {
 public:
  CudaGraph(Driver& driver, Memory& memory, Queue& queue, Stream stream, const RandomKey& key);
  ~CudaGraph() override;

  // Throws NotCapturable where the device met something that it cannot write down.
  void end();
  void replay(const RandomKey& now) override;

 private:
  void leave();

  Driver& driver_;
  Memory& memory_;
  Queue& queue_;
  Stream stream_;                 // that of captures
  uint32_t* base_ = nullptr;      // on the device: where a replay's random numbers begin
  std::optional<Detour> detour_;  // until end()
  bool draws_ = false;
  Graph graph_ = nullptr;
};

}  // namespace lockstep::cuda
