#include <cuda_runtime_api.h>

#include "lockstep/runtime/cuda/grid.h"
#include "lockstep/runtime/cuda/memory.h"
#include "lockstep/runtime/cuda/vendor/check.h"

namespace lockstep::cuda {
namespace {

constexpr int kSharedWithoutAsking = 48 << 10;
constexpr int64_t kMostBlocks = (int64_t{1} << 31) - 1;
constexpr int64_t kMostBlocksY = 65535;

cudaError_t try_to_queue(const void* kernel, const Grid& grid, int threads, void** arguments,
                         Stream stream) {
  if (grid.shared_bytes > kSharedWithoutAsking) {
    const cudaError_t code = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, grid.shared_bytes);
    if (code != cudaSuccess) return code;
  }
  const dim3 blocks(static_cast<unsigned>(grid.blocks), static_cast<unsigned>(grid.blocks_y));
  return cudaLaunchKernel(kernel, blocks, dim3(static_cast<unsigned>(threads)), arguments,
                          static_cast<size_t>(grid.shared_bytes), stream);
}

}  // namespace

void queue_kernel(const void* kernel, const Grid& grid, int threads, void** arguments,
                  Queue& queue) {
  LOCKSTEP_CHECK(grid.blocks <= kMostBlocks && grid.blocks_y <= kMostBlocksY, "a kernel of ",
                 grid.blocks, " x ", grid.blocks_y, " blocks: too many");
  const Stream stream = queue.stream();
  cudaError_t code = try_to_queue(kernel, grid, threads, arguments, stream);
  if (code == cudaErrorMemoryAllocation) {  // its code is loaded when it is first needed
    cudaGetLastError();
    queue.memory().trim();
    code = try_to_queue(kernel, grid, threads, arguments, stream);
  }
  if (code == cudaSuccess) [[likely]]
    return;
  cudaGetLastError();  // it is no error of the next call
  if (code == cudaErrorMemoryAllocation) {
    throw OutOfMemory("out of memory: the device has no room for the code of a kernel");
  }
  check(code, "kernel launch");
}

}  // namespace lockstep::cuda
