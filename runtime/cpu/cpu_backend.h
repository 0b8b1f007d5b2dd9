#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep {

// Host memory and the CPU's kernels. Freed blocks are kept by size class and handed out again:
// a training step asks for the same sizes every time, and fresh pages cost more than the kernels
// that fill them.
class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(std::unique_ptr<Kernels> kernels);
  ~CpuBackend() override;

  Device device() const override { return {}; }
  Kernels& kernels() override { return *kernels_; }

  std::string description() const override;
  void* allocate(size_t bytes, const char* holder) override;
  void deallocate(void* data, size_t bytes) override;
  void account(int64_t bytes) override;
  void trim() override;
  void set_limit(int64_t bytes) override;
  MemoryStatistics statistics() const override;

  void copy_from_host(void* to, const void* from, size_t bytes) override;
  void copy_to_host(void* to, const void* from, size_t bytes) override;
  void synchronize() override {}

 private:
  void note_in_use(int64_t bytes);
  void note_reserved(int64_t bytes);
  bool has_room(int64_t bytes) const;
  bool make_room(int64_t bytes);
  void* take_from_system(size_t block_bytes);
  void trim_locked();
  [[noreturn]] void fail_out_of_memory(size_t bytes, const char* holder) const;

  std::unique_ptr<Kernels> kernels_;
  mutable std::mutex mutex_;                // guards all below
  std::vector<std::vector<void*>> cached_;  // by size class
  MemoryStatistics statistics_;
};

// With the kernels of the instruction level that cpu/level.h chooses.
std::unique_ptr<Backend> make_cpu_backend();

}  // namespace lockstep
