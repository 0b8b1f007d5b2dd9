#include "lockstep/runtime/cuda/cuda_backend.h"

#include <utility>

#include "lockstep/runtime/cuda/cuda_kernels.h"

namespace lockstep::cuda {

CudaBackend::CudaBackend(Device device, std::unique_ptr<Driver> driver, std::unique_ptr<Blas> blas,
                         std::unique_ptr<Dnn> dnn)
    : device_(device),
      driver_(std::move(driver)),
      properties_(driver_->properties()),
      memory_(*driver_, device),
      blas_(std::move(blas)),
      dnn_(std::move(dnn)),
      queue_(driver_->make_stream(), properties_.multiprocessors, *driver_, memory_, *blas_, *dnn_),
      kernels_(std::make_unique<CudaKernels>(queue_)) {}

CudaBackend::~CudaBackend() = default;

std::string CudaBackend::description() const {
  return concat(
      {properties_.name, ", compute capability ", properties_.major, ".", properties_.minor});
}

void* CudaBackend::allocate(size_t bytes, const char* holder) {
  return memory_.allocate(bytes, holder);
}
void CudaBackend::deallocate(void* data, size_t) { memory_.deallocate(data); }
void CudaBackend::account(int64_t bytes) { memory_.account(bytes); }
void CudaBackend::trim() { memory_.trim(); }
void CudaBackend::set_limit(int64_t bytes) { memory_.set_limit(bytes); }
MemoryStatistics CudaBackend::statistics() const { return memory_.statistics(); }

void CudaBackend::copy_from_host(void* to, const void* from, size_t bytes) {
  queue_.copy(to, from, bytes);
}
void CudaBackend::copy_to_host(void* to, const void* from, size_t bytes) {
  queue_.read(to, from, bytes);
}
void CudaBackend::synchronize() { driver_->synchronize(queue_.stream()); }
void* CudaBackend::stream() { return queue_.stream(); }

}  // namespace lockstep::cuda
