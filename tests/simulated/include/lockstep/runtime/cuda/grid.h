#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/host_device.h"

// Stands in for the device's grid.h: a grid's blocks and threads are loops on the host. The threads
// of a cooperative body take turns, each on a stack of its own, and change at the points where they
// wait for each other. Waiting that does not match, a lane that left before a shuffle, and threads
// that write beyond the block's shared memory end the program with a message.
namespace lockstep::cuda {

#define LOCKSTEP_DEVICE LOCKSTEP_HD

inline constexpr int kWarp = 32;

struct SimulatedBlock;  // simulated/grid.cc

class Thread {
 public:
  Thread(SimulatedBlock* state, int index, int block, int block_y, int blocks)
      : state_(state), index_(index), block_(block), block_y_(block_y), blocks_(blocks) {}

  int index() const { return index_; }
  int block() const { return block_; }
  int block_y() const { return block_y_; }
  int blocks() const { return blocks_; }
  int lane() const { return index() % kWarp; }
  int warp() const { return index() / kWarp; }

  void sync() const;
  void sync_warp() const;
  template <class T>
  T from_lane(const T& value, int lane) const {
    T result;
    exchange(&value, &result, sizeof(T), (lane % kWarp + kWarp) % kWarp);
    return result;
  }
  template <class T>
  T from_lane_xor(const T& value, int mask) const {
    return from_lane(value, lane() ^ mask);
  }
  uint32_t ballot(bool value) const {
    uint32_t bits = 0;
    for (int i = 0; i < kWarp; ++i) {
      bits |= uint32_t{from_lane(uint32_t{value}, i) != 0} << i;
    }
    return bits;
  }
  template <class T>
  T* shared() const {
    return static_cast<T*>(shared_memory());
  }

 private:
  // What lane `from` of this warp brought.
  void exchange(const void* mine, void* theirs, size_t bytes, int from) const;
  void* shared_memory() const;

  SimulatedBlock* state_;
  int index_, block_, block_y_, blocks_;
};

struct Grid {
  int64_t blocks = 1;
  int64_t blocks_y = 1;
  int shared_bytes = 0;
};

// Runs one block of a cooperative body; simulated/grid.cc.
void run_cooperative_block(int threads, int shared_bytes, int block, int block_y, int blocks,
                           const std::function<void(const Thread&)>& body);
// Lets kernels, and nothing else, touch the simulated device's memory while it lives.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
};

// Does `work`, or writes it down where the stream is captured, whatever thread queues it;
// simulated/driver.cc.
bool is_captured(Stream stream);
void write_down(Stream stream, std::function<void()> work);
template <class Work>
void do_or_write_down(Stream stream, Work work) {
  if (!is_captured(stream)) return work();
  write_down(stream, std::move(work));
}

template <class Body>
void run_grid(const Body& body, const Grid& grid) {
  const DeviceAccess access;
  for (int64_t y = 0; y < grid.blocks_y; ++y) {
    for (int64_t x = 0; x < grid.blocks; ++x) {
      const int block = static_cast<int>(x), block_y = static_cast<int>(y);
      const int blocks = static_cast<int>(grid.blocks);
      if constexpr (Body::kCooperative) {
        run_cooperative_block(Body::kThreads, grid.shared_bytes, block, block_y, blocks,
                              [&](const Thread& thread) { body(thread); });
      } else {
        for (int i = 0; i < Body::kThreads; ++i) body(Thread(nullptr, i, block, block_y, blocks));
      }
    }
  }
}

template <class Body>
void launch(const Body& body, const Grid& grid, Queue& queue) {
  do_or_write_down(queue.stream(), [body, grid] { run_grid(body, grid); });
}

}  // namespace lockstep::cuda
