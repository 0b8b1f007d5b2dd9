#include "lockstep/launcher/train/device.h"

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
