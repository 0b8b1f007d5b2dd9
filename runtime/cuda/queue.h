#pragma once

#include <cstddef>
#include <cstdint>

// CUDA's own type, without its headers.
struct CUstream_st;

namespace lockstep::cuda {

using Stream = CUstream_st*;

class Blas;    // blas.h
class Dnn;     // dnn.h
class Driver;  // driver.h
class Memory;  // memory.h

// Where a device's kernels go: its compute stream, in order, and what they need beside their
// arguments. Belongs to the backend.
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

  // The device is the calling thread's own afterwards.
  Stream stream() const;
  int multiprocessors() const { return multiprocessors_; }
  Memory& memory() const { return memory_; }
  Blas& blas() const { return blas_; }
  Dnn& dnn() const { return dnn_; }

  // Between places of the device, in order.
  void copy(void* to, const void* from, size_t bytes);
  void set_zero(void* to, size_t bytes);
  // Copies to the host what the kernels so far have left at `from`, and waits for it.
  void read(void* to, const void* from, size_t bytes);

 private:
  Stream stream_;
  int multiprocessors_;
  Driver& driver_;
  Memory& memory_;
  Blas& blas_;
  Dnn& dnn_;
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
