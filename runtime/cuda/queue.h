#pragma once

#include <cstddef>
#include <cstdint>

#include "lockstep/runtime/host_device.h"
#include "lockstep/runtime/kernels.h"

// CUDA's own types, without its headers.
struct CUevent_st;
struct CUgraphExec_st;
struct CUstream_st;

namespace lockstep::cuda {

using Event = CUevent_st*;
using Graph = CUgraphExec_st*;
using Stream = CUstream_st*;

class Blas;    // blas.h
class Dnn;     // dnn.h
class Driver;  // driver.h
class Memory;  // memory.h

// A key of random numbers as kernels take it: of a captured pass, step, first sample and operation
// are those at `base` more.
struct DeviceKey {
  RandomKey key;
  const uint32_t* base = nullptr;

  LOCKSTEP_HD uint32_t step() const { return base == nullptr ? key.step : key.step + base[0]; }
  LOCKSTEP_HD uint32_t first_sample() const {
    return base == nullptr ? key.first_sample : key.first_sample + base[1];
  }
  LOCKSTEP_HD uint32_t operation() const {
    return base == nullptr ? key.operation : key.operation + base[2];
  }
};

// Where a device's kernels go: its compute stream, in order, and what they need beside their
// arguments. Belongs to the backend. Any thread may queue work; a Detour is its own thread's.
class Queue {
 public:
  Queue(Stream stream, int multiprocessors, Driver& driver, Memory& memory, Blas& blas, Dnn& dnn)
      : stream_(stream),
        multiprocessors_(multiprocessors),
        driver_(driver),
        memory_(memory),
        blas_(blas),
        dnn_(dnn) {}
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  // Where the calling thread's work goes. The device is that thread's own afterwards.
  Stream stream() const;
  int multiprocessors() const { return multiprocessors_; }
  Memory& memory() const { return memory_; }
  Blas& blas() const { return blas_; }
  Dnn& dnn() const { return dnn_; }

  // Between places of the device, in order.
  void copy(void* to, const void* from, size_t bytes);
  void set_zero(void* to, size_t bytes);
  // To the host what the kernels so far have left at `from`; waits for it.
  void read(void* to, const void* from, size_t bytes);

  // Whether the calling thread captures a pass of this queue.
  bool captures() const;
  // `what` cannot be captured: throws NotCapturable where it would be.
  void refuse_capture(const char* what) const;
  DeviceKey device_key(const RandomKey& key);

 private:
  Stream own_stream() const;

  Stream stream_;
  int multiprocessors_;
  Driver& driver_;
  Memory& memory_;
  Blas& blas_;
  Dnn& dnn_;
};

// While it lives, what its thread queues goes to `stream`, which the device's library writes down;
// what other threads queue is done as ever. One to a thread, and of one thread.
class Detour {
 public:
  // Of a pass that is captured: `base` is where the random numbers of a replay begin, three words
  // of the device, and `key` that of the pass.
  Detour(const Queue& queue, Stream stream, const uint32_t* base = nullptr,
         const RandomKey& key = {});
  ~Detour();
  Detour(const Detour&) = delete;
  Detour& operator=(const Detour&) = delete;

  // Whether the calling thread has one, of whatever queue.
  static bool is_on();
  // Whether random numbers were drawn.
  bool draws() const { return draws_; }

 private:
  friend class Queue;

  const Queue& queue_;
  Stream stream_;
  const uint32_t* base_;
  RandomKey key_;
  bool draws_ = false;
};

// Memory of the device for the kernels queued while this lives. Not initialised, 512-byte aligned.
class Scratch {
 public:
  Scratch(Queue& queue, size_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  Memory& memory_;
  void* data_;
};

}  // namespace lockstep::cuda
