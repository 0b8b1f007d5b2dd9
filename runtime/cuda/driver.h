#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "lockstep/runtime/cuda/queue.h"

namespace lockstep::cuda {

struct DeviceProperties {
  std::string name;  // "NVIDIA H100 80GB HBM3"
  int major = 0;     // compute capability
  int minor = 0;
  int multiprocessors = 0;
};

// One device as CUDA's runtime offers it: the seam that tests put a host's memory behind. Throws
// Error naming the call and CUDA's reason.
class Driver {
 public:
  virtual ~Driver() = default;

  virtual DeviceProperties properties() = 0;
  // Makes the device the calling thread's own, to which all that it calls of CUDA refers. The other
  // calls here do it by themselves.
  virtual void use() = 0;

  // Null where there is no more.
  virtual void* allocate(size_t bytes) = 0;
  virtual void free(void* data) = 0;

  // Memory of the host that the device copies from and to by itself. Null where there is none.
  virtual void* allocate_pinned(size_t bytes) = 0;
  virtual void free_pinned(void* data) noexcept = 0;

  virtual Stream make_stream() = 0;

  // Between any two of host and device, in order on the stream. Returns when memory of the host has
  // been read, or filled; pinned memory is read and filled when the stream comes to it.
  virtual void copy(void* to, const void* from, size_t bytes, Stream stream) = 0;
  virtual void set_zero(void* to, size_t bytes, Stream stream) = 0;
  virtual void synchronize(Stream stream) = 0;

  // An event behind what the stream has been given so far.
  virtual Event record(Stream stream) = 0;
  // On a stream that is being written down: each launch of the graph records it anew.
  virtual Event record_in_graph(Stream stream) = 0;
  virtual bool is_reached(Event event) = 0;
  virtual void wait(Event event) = 0;
  // Between two that are reached.
  virtual double seconds_between(Event from, Event to) = 0;
  virtual void destroy(Event event) noexcept = 0;

  // What is queued on the stream is written down and not done, until end_capture(): then it is a
  // graph, to be launched on another one; or null where the stream met something that cannot be.
  // abandon_capture() ends it without one.
  virtual void begin_capture(Stream stream) = 0;
  virtual Graph end_capture(Stream stream, Stream launched_on) = 0;
  virtual void abandon_capture(Stream stream) noexcept = 0;
  virtual void launch(Graph graph, Stream stream) = 0;
  // What has been launched of it still runs to its end.
  virtual void destroy(Graph graph) noexcept = 0;
};

// Of the device with that number. Throws Error telling what is missing: the driver, the device, or
// a driver new enough.
std::unique_ptr<Driver> make_driver(int index);
// How many devices the driver shows; 0 where it is missing or too old.
int visible_devices();

}  // namespace lockstep::cuda
