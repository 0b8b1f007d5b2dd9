#include "lockstep/runtime/backend.h"

#include <array>
#include <atomic>
#include <filesystem>
#include <memory>
#include <mutex>

#include "lockstep/runtime/cpu/cpu_backend.h"
#include "lockstep/runtime/cuda/library.h"
#include "lockstep/runtime/error.h"
#include "lockstep/runtime/plugin.h"

namespace lockstep {
namespace {

constexpr int kMostDevices = 64;

// Backends are never destroyed: arrays of static duration may outlive every other static object.
struct OpenDevices {
  std::array<std::atomic<Backend*>, kMostDevices> backends{};
  std::mutex opening;
};

Plugin open_library() {
  const Plugin plugin = open_plugin("liblockstep_cuda.so");
  if (plugin.handle == nullptr) {
    fail({"a CUDA device needs Lockstep's CUDA library, which cannot be opened: ", plugin.error,
          "; expected ", plugin.where, ", and CUDA's libraries, cuDNN and NCCL installed (built ",
          "with LOCKSTEP_CUDA=ON)"});
  }
  return plugin;
}

Backend& cuda_backend(Device device) {
  static OpenDevices& open = *new OpenDevices;
  LOCKSTEP_CHECK(device.index >= 0 && device.index < kMostDevices, "there is no device ",
                 device.to_string());
  std::atomic<Backend*>& backend = open.backends[static_cast<size_t>(device.index)];
  if (Backend* found = backend.load(std::memory_order_acquire)) return *found;
  const std::lock_guard lock(open.opening);
  if (backend.load(std::memory_order_relaxed) == nullptr) {
    const auto make = open_library().function<cuda::OpenFunction>(cuda::kOpenFunction);
    backend.store(make(device.index), std::memory_order_release);
  }
  return *backend.load(std::memory_order_relaxed);
}

}  // namespace

Backend& backend_of(Device device) {
  if (device.kind == DeviceKind::cpu) {
    static Backend& cpu = *make_cpu_backend().release();
    return cpu;
  }
  return cuda_backend(device);
}

int visible_gpus() { return open_library().function<cuda::CountFunction>(cuda::kCountFunction)(); }

bool has_gpu() {
  std::error_code error;
  for (const char* path : {"/dev/nvidiactl", "/proc/driver/nvidia/version", "/dev/dxg"}) {
    if (std::filesystem::exists(path, error)) return true;
  }
  return false;
}

}  // namespace lockstep
