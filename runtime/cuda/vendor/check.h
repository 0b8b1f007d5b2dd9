#pragma once

#include <cuda_runtime_api.h>

#include "lockstep/runtime/error.h"

namespace lockstep::cuda {

// Throws Error naming the call and what CUDA says.
inline void check(cudaError_t code, const char* call) {
  if (code != cudaSuccess) [[unlikely]] {
    fail({call, ": ", cudaGetErrorName(code), ": ", cudaGetErrorString(code)});
  }
}

}  // namespace lockstep::cuda

#define LOCKSTEP_CUDA(call) ::lockstep::cuda::check(call, #call)
