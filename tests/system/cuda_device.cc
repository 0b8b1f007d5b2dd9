// Opens the first GPU and computes something there: "device cuda:0: NVIDIA H100 …". Where it cannot
// be opened the reason is the last line of stderr, and the exit code 1.
#include <cstdio>

#include "lockstep/runtime/array.h"
#include "lockstep/runtime/backend.h"

int main() {
  using namespace lockstep;
  const Device device{DeviceKind::cuda, 0};
  try {
    const double sum = Array::full({1000}, 0.5, DType::f32, device).to_vector<double>()[999];
    std::printf("device %s: %s\n", device.to_string().c_str(),
                backend_of(device).description().c_str());
    return sum == 0.5 ? 0 : 1;
  } catch (const Error& error) {
    std::fprintf(stderr, "cuda_device: %s\n", error.what());
    return 1;
  }
}
