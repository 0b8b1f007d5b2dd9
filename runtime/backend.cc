#include "lockstep/runtime/backend.h"

#include <memory>

#include "lockstep/runtime/cpu/cpu_backend.h"
#include "lockstep/runtime/error.h"

namespace lockstep {

Backend& backend_of(Device device) {
  if (device.kind == DeviceKind::cpu) {
    // Never destroyed: arrays of static duration may outlive every other static object.
    static Backend& cpu = *make_cpu_backend().release();
    return cpu;
  }
  fail({"this build has no CUDA device: '", device.to_string(), "' asked for"});
}

}  // namespace lockstep
