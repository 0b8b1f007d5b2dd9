#include "lockstep/launcher/train/device.h"

#include <cstdlib>

#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/error.h"
#include "lockstep/runtime/log.h"

namespace lockstep::train {
namespace {

Device own_gpu(const World& world) {
  const Device device{DeviceKind::cuda, visible_gpus() == 1 ? 0 : world.local_rank};
  backend_of(device);
  return device;
}

}  // namespace

std::string reason_for_cpu(const World& world, int gpus,
                           const std::function<const char*(const char*)>& lookup) {
  const auto is_set = [&](const char* name) {
    const char* value = lookup(name);
    return value != nullptr && *value != 0;
  };
  if (world.size == 1) return "";
  if (!is_set("LOCKSTEP_STORE") && !is_set("MASTER_ADDR")) {
    return "ranks on GPUs meet at LOCKSTEP_STORE or MASTER_ADDR, and neither is set";
  }
  // A scheduler that gives each rank a GPU of its own shows it that one alone.
  const bool own = gpus == 1 && is_set("CUDA_VISIBLE_DEVICES");
  if (gpus >= world.local_size || own) return "";
  if (!world.local_size_known) {
    // Ranks that MPI did not start have no other device.
    if (!world.mpi && world.local_rank_known && world.local_rank < gpus) return "";
    return concat({"all ", world.size, " ranks may be on this host, which has ", gpus,
                   " GPUs: LOCAL_WORLD_SIZE says how many are"});
  }
  return concat({"this host's ", world.local_size, " ranks see ", gpus, " GPUs"});
}

Device choose_device(std::string_view wanted, const World& world) {
  if (wanted == "cpu") return {};
  if (wanted == "cuda") {
    try {
      return own_gpu(world);
    } catch (const Error& error) {
      fail_usage({"--device cuda: ", error.what()});
    }
  }
  if (!has_gpu()) {
    log(LogLevel::info, {"--device auto: the CPU, because this machine has no GPU"});
    return {};
  }
  try {
    const std::string reason = reason_for_cpu(world, visible_gpus(), std::getenv);
    if (!reason.empty()) {
      log(LogLevel::info, {"--device auto: the CPU, because ", reason});
      return {};
    }
    const Device device = own_gpu(world);
    log(LogLevel::info,
        {"--device auto: ", device.to_string(), ", ", backend_of(device).description()});
    return device;
  } catch (const Error& error) {
    log(LogLevel::warning,
        {"--device auto: the CPU, although this machine has a GPU: ", error.what()});
    return {};
  }
}

}  // namespace lockstep::train
