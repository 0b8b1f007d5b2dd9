#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "lockstep/runtime/cuda/queue.h"

// How a kernel is written and started. A kernel is a struct, its body, whose call operator is what
// one thread does; its data members are the kernel's arguments:
//
//   struct Body {
//     static constexpr int kThreads = 256;         // of a block
//     static constexpr bool kCooperative = false;  // whether it uses shared memory or waits
//     LOCKSTEP_DEVICE void operator()(const Thread& t) const;
//   };
//   launch(body, {.blocks = n}, queue);
//
// A body uses nothing of CUDA but what Thread offers, so that the tests compile the same source
// with another grid.h, under which blocks and threads are loops on the host.
namespace lockstep::cuda {

#define LOCKSTEP_DEVICE __device__ __forceinline__

inline constexpr int kWarp = 32;

// The thread that runs. `sync` and the shuffles are for cooperative bodies; all threads of a block
// (of a warp) make them in the same order, none having returned before.
class Thread {
 public:
  LOCKSTEP_DEVICE int index() const { return static_cast<int>(threadIdx.x); }
  LOCKSTEP_DEVICE int block() const { return static_cast<int>(blockIdx.x); }
  LOCKSTEP_DEVICE int block_y() const { return static_cast<int>(blockIdx.y); }
  LOCKSTEP_DEVICE int blocks() const { return static_cast<int>(gridDim.x); }
  LOCKSTEP_DEVICE int lane() const { return index() % kWarp; }
  LOCKSTEP_DEVICE int warp() const { return index() / kWarp; }

  // Waits for the threads of the block (of the warp), and sees what they wrote.
  LOCKSTEP_DEVICE void sync() const { __syncthreads(); }
  LOCKSTEP_DEVICE void sync_warp() const { __syncwarp(); }

  // The value that another lane of the warp brings; T of 1, 2 or more 4-byte words.
  template <class T>
  LOCKSTEP_DEVICE T from_lane(const T& value, int lane) const {
    return moved(value, [lane](uint32_t word) { return __shfl_sync(0xffffffffu, word, lane); });
  }
  template <class T>
  LOCKSTEP_DEVICE T from_lane_xor(const T& value, int mask) const {
    return moved(value, [mask](uint32_t word) { return __shfl_xor_sync(0xffffffffu, word, mask); });
  }
  LOCKSTEP_DEVICE uint32_t ballot(bool value) const { return __ballot_sync(0xffffffffu, value); }

  // The block's shared memory, of as many bytes as the launch asked for, 16-byte aligned.
  template <class T>
  LOCKSTEP_DEVICE T* shared() const {
    extern __shared__ __align__(16) unsigned char lockstep_shared_memory[];
    return reinterpret_cast<T*>(lockstep_shared_memory);
  }

 private:
  template <class T, class Move>
  LOCKSTEP_DEVICE static T moved(const T& value, const Move& move) {
    static_assert(sizeof(T) % sizeof(uint32_t) == 0);
    constexpr int kWords = sizeof(T) / sizeof(uint32_t);
    uint32_t words[kWords];
    memcpy(words, &value, sizeof value);
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[i] = move(words[i]);
    T result;
    memcpy(&result, words, sizeof result);
    return result;
  }
};

struct Grid {
  int64_t blocks = 1;
  int64_t blocks_y = 1;  // at most 65535
  int shared_bytes = 0;
};

// A body may say for how many of its blocks a multiprocessor must have registers (kLeastBlocks):
// else the compiler may spill some of them to make room for more blocks.
template <class Body>
constexpr int least_blocks() {
  if constexpr (requires { Body::kLeastBlocks; }) return Body::kLeastBlocks;
  return 0;
}

template <class Body>
__global__ void __launch_bounds__(Body::kThreads, least_blocks<Body>())
    kernel(const __grid_constant__ Body body) {
  body(Thread{});
}

// Queues a kernel of that many threads a block; `arguments` points to the address of each. Throws
// OutOfMemory where the device has no room for its code even when what is cached has been given
// back, and Error where CUDA refuses it otherwise. vendor/launch.cu.
void queue_kernel(const void* kernel, const Grid& grid, int threads, void** arguments,
                  Queue& queue);

// Nothing where the grid is empty.
template <class Body>
void launch(const Body& body, const Grid& grid, Queue& queue) {
  static_assert(Body::kCooperative || !Body::kCooperative);  // the simulated grid reads it
  if (grid.blocks == 0 || grid.blocks_y == 0) return;
  void* arguments[] = {const_cast<Body*>(&body)};
  queue_kernel(reinterpret_cast<const void*>(&kernel<Body>), grid, Body::kThreads, arguments,
               queue);
}

}  // namespace lockstep::cuda
