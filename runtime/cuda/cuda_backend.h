#pragma once

#include <memory>

#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/cuda/blas.h"
#include "lockstep/runtime/cuda/dnn.h"
#include "lockstep/runtime/cuda/driver.h"
#include "lockstep/runtime/cuda/graph.h"
#include "lockstep/runtime/cuda/host_copies.h"
#include "lockstep/runtime/cuda/memory.h"
#include "lockstep/runtime/cuda/queue.h"

namespace lockstep::cuda {

// One GPU: its memory, and one compute stream on which everything that the runtime computes is
// queued. Copies to and from the host are in order with it.
class CudaBackend final : public Backend {
 public:
  CudaBackend(Device device, std::unique_ptr<Driver> driver, std::unique_ptr<Blas> blas,
              std::unique_ptr<Dnn> dnn);
  ~CudaBackend() override;

  Device device() const override { return device_; }
  Kernels& kernels() override { return *kernels_; }
  std::string description() const override;

  void* allocate(size_t bytes, const char* holder) override;
  void deallocate(void* data, size_t bytes) override;
  void account(int64_t bytes) override;
  void trim() override;
  void set_limit(int64_t bytes) override;
  void reserve(int64_t bytes) override;
  MemoryStatistics statistics() const override;

  void copy_from_host(void* to, const void* from, size_t bytes) override;
  void copy_to_host(void* to, const void* from, size_t bytes) override;
  void synchronize() override;
  void* stream() override;
  std::unique_ptr<Mark> mark() override;
  std::unique_ptr<Mark> mark_in_capture() override;
  bool is_reached(const Mark& mark) override;
  double seconds_between(const Mark& from, const Mark& to) override;

  void begin_capture(const RandomKey& key) override;
  std::unique_ptr<Capture> end_capture() override;
  void abandon_capture() override;
  void on_shortage(const void* who, std::function<bool()> let_captures_go) override;

 private:
  Device device_;
  std::unique_ptr<Driver> driver_;
  DeviceProperties properties_;
  Memory memory_;
  std::unique_ptr<Blas> blas_;
  std::unique_ptr<Dnn> dnn_;
  Queue queue_;
  HostCopies host_copies_;
  std::unique_ptr<Kernels> kernels_;
  const Stream capture_stream_;
  std::unique_ptr<CudaGraph> capturing_;  // of the one thread that may
};

}  // namespace lockstep::cuda
