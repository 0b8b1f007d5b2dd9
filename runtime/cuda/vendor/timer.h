#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <limits>

#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/cuda/memory.h"
#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/cuda/vendor/check.h"

// How long work on a stream takes. Part of blas.cc.
namespace lockstep::cuda {

// A point among the work of a stream, and its time.
class TimedEvent {
 public:
  TimedEvent() { LOCKSTEP_CUDA(cudaEventCreate(&event_)); }
  ~TimedEvent() { cudaEventDestroy(event_); }
  TimedEvent(const TimedEvent&) = delete;
  TimedEvent& operator=(const TimedEvent&) = delete;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

// What `work` queues, as a graph: its kernels follow each other as closely as in a captured pass,
// however long the host takes to queue them. It is written down on the stream `aside`, so that
// other threads' work is no part of it; and no memory that the graph has worked in is theirs while
// this lives.
class Recording {
 public:
  template <class Work>
  Recording(Queue& queue, Stream aside, const Work& work)
      : stream_(queue.stream()), alone_(queue.memory()) {
    LOCKSTEP_CUDA(cudaStreamBeginCapture(aside, cudaStreamCaptureModeRelaxed));
    cudaGraph_t graph = nullptr;
    try {
      const Detour detour(queue, aside);
      work(aside);
    } catch (...) {
      cudaStreamEndCapture(aside, &graph);
      if (graph != nullptr) cudaGraphDestroy(graph);
      cudaGetLastError();  // it is no error of the next call
      throw;
    }
    cudaError_t code = cudaStreamEndCapture(aside, &graph);
    if (code == cudaSuccess) code = cudaGraphInstantiate(&executable_, graph, 0);
    if (graph != nullptr) cudaGraphDestroy(graph);
    if (code == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      throw OutOfMemory("out of memory: the device has no room for the graph of what is timed");
    }
    check(code, "the graph of what is timed");
  }
  ~Recording() { cudaGraphExecDestroy(executable_); }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  // Of one replay, which is waited for.
  float milliseconds() const {
    LOCKSTEP_CUDA(cudaEventRecord(begin_.get(), stream_));
    LOCKSTEP_CUDA(cudaGraphLaunch(executable_, stream_));
    LOCKSTEP_CUDA(cudaEventRecord(end_.get(), stream_));
    LOCKSTEP_CUDA(cudaEventSynchronize(end_.get()));
    float time = 0;
    LOCKSTEP_CUDA(cudaEventElapsedTime(&time, begin_.get(), end_.get()));
    return time;
  }

 private:
  Stream stream_;
  Memory::Alone alone_;
  cudaGraphExec_t executable_ = nullptr;
  TimedEvent begin_, end_;
};

// How often work is done to time it: `runs` times in a row, of which the shortest of `rounds`
// counts.
struct Repetitions {
  int runs, rounds;
};

// Of one run of `work`, which queues on the stream that it is given, and is called before it is
// timed: whatever happens once is not counted.
template <class Work>
float milliseconds(Queue& queue, Stream aside, const Repetitions& repetitions, const Work& work) {
  work(queue.stream());
  const Recording recording(queue, aside, [&](Stream stream) {
    for (int i = 0; i < repetitions.runs; ++i) work(stream);
  });
  float shortest = std::numeric_limits<float>::infinity();
  for (int i = 0; i < repetitions.rounds; ++i) {
    shortest = std::min(shortest, recording.milliseconds());
  }
  return shortest / static_cast<float>(repetitions.runs);
}

}  // namespace lockstep::cuda
