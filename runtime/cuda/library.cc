#include "lockstep/runtime/cuda/library.h"

#include <memory>
#include <utility>

#include "lockstep/runtime/cuda/cuda_backend.h"

extern "C" __attribute__((visibility("default"))) lockstep::Backend* lockstep_cuda_open_3(
    int index) {
  using namespace lockstep::cuda;
  // The libraries' handles belong to the device that is the thread's own when they are made.
  std::unique_ptr<Driver> driver = make_driver(index);
  driver->use();
  std::unique_ptr<Blas> blas = make_blas();
  std::unique_ptr<Dnn> dnn = make_dnn(index);
  return new CudaBackend({lockstep::DeviceKind::cuda, index}, std::move(driver), std::move(blas),
                         std::move(dnn));
}

extern "C" __attribute__((visibility("default"))) int lockstep_cuda_count_1() {
  return lockstep::cuda::visible_devices();
}
