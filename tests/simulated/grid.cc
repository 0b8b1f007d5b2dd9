#undef _FORTIFY_SOURCE  // refuses jumps to other stacks
#include "lockstep/runtime/cuda/grid.h"

#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

// The threads of a cooperative block as fibers of the calling thread. A fiber begins on its stack
// as a context; from then on it is left and entered by jumps, which need no system calls, and runs
// one block's thread after the other.
namespace lockstep::cuda {
namespace {

constexpr size_t kStackBytes = 64 << 10;
constexpr size_t kLargestExchange = 64;
constexpr size_t kGuardBytes = 64;
constexpr unsigned char kGuard = 0xa5;

enum class Waits : uint8_t { no, for_warp, for_block, ended };

struct Fiber {
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  bool begun = false;
  jmp_buf place;
  Waits waits = Waits::no;
  unsigned char brought[kLargestExchange];
};

[[noreturn]] void end_with(const char* reason, int block) {
  std::fprintf(stderr, "simulated grid: block %d: %s\n", block, reason);
  std::abort();
}

}  // namespace

struct SimulatedBlock {
  jmp_buf scheduler;
  std::vector<Fiber> fibers;
  std::vector<unsigned char> shared;
  int running = 0;
  int threads = 0, shared_bytes = 0, block = 0, block_y = 0, blocks = 0;
  const std::function<void(const Thread&)>* body = nullptr;

  void pause(int thread, Waits waits) {
    Fiber& fiber = fibers[static_cast<size_t>(thread)];
    fiber.waits = waits;
    if (_setjmp(fiber.place) == 0) _longjmp(scheduler, 1);
  }
};

namespace {

SimulatedBlock& block_of_this_thread() {
  thread_local SimulatedBlock block;
  return block;
}

void enter() {
  SimulatedBlock& block = block_of_this_thread();
  const int index = block.running;
  for (;;) {
    (*block.body)(Thread(&block, index, block.block, block.block_y, block.blocks));
    block.pause(index, Waits::ended);
  }
}

// Comes back when the fiber waits or has ended.
void go_on(SimulatedBlock& block, Fiber& fiber) {
  if (_setjmp(block.scheduler) != 0) return;
  if (fiber.begun) _longjmp(fiber.place, 1);
  fiber.begun = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack.get();
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, enter, 0);
  setcontext(&context);
}

// Runs every fiber of [begin, end) that waits for nothing.
void run(SimulatedBlock& block, int begin, int end) {
  for (int i = begin; i < end; ++i) {
    Fiber& fiber = block.fibers[static_cast<size_t>(i)];
    if (fiber.waits != Waits::no) continue;
    block.running = i;
    go_on(block, fiber);
  }
}

int count(const SimulatedBlock& block, int begin, int end, Waits waits) {
  int found = 0;
  for (int i = begin; i < end; ++i) found += block.fibers[static_cast<size_t>(i)].waits == waits;
  return found;
}

void release(SimulatedBlock& block, int begin, int end) {
  for (int i = begin; i < end; ++i) block.fibers[static_cast<size_t>(i)].waits = Waits::no;
}

// Until all threads of the warp wait for the block or have ended.
void run_warp(SimulatedBlock& block, int begin, int end) {
  for (;;) {
    run(block, begin, end);
    const int waiting = count(block, begin, end, Waits::for_warp);
    if (waiting == 0) return;
    if (waiting != end - begin)
      end_with("some lanes wait for their warp, others do not", block.block);
    release(block, begin, end);
  }
}

}  // namespace

void run_cooperative_block(int threads, int shared_bytes, int index, int index_y, int blocks,
                           const std::function<void(const Thread&)>& body) {
  SimulatedBlock& block = block_of_this_thread();
  if (block.fibers.size() < static_cast<size_t>(threads)) {
    block.fibers = std::vector<Fiber>(static_cast<size_t>(threads));
  }
  block.shared.assign(static_cast<size_t>(shared_bytes) + kGuardBytes + 16, kGuard);
  block.threads = threads;
  block.shared_bytes = shared_bytes;
  block.block = index;
  block.block_y = index_y;
  block.blocks = blocks;
  block.body = &body;
  release(block, 0, threads);
  for (;;) {
    for (int begin = 0; begin < threads; begin += kWarp) {
      run_warp(block, begin, begin + kWarp < threads ? begin + kWarp : threads);
    }
    const int waiting = count(block, 0, threads, Waits::for_block);
    if (waiting == 0) break;
    if (waiting != threads) end_with("some threads wait for the block, others have ended", index);
    release(block, 0, threads);
  }
  const unsigned char* end = block.shared.data() + (block.shared.size() - kGuardBytes);
  for (size_t i = 0; i < kGuardBytes; ++i) {
    if (end[i] != kGuard) end_with("wrote beyond its shared memory", index);
  }
}

void Thread::sync() const { state_->pause(index_, Waits::for_block); }
void Thread::sync_warp() const { state_->pause(index_, Waits::for_warp); }

void Thread::exchange(const void* mine, void* theirs, size_t bytes, int from) const {
  if (bytes > kLargestExchange) end_with("a shuffle of more bytes than the simulation has", block_);
  const int source = warp() * kWarp + from;
  if (source >= state_->threads) end_with("a shuffle from a lane that the block lacks", block_);
  std::memcpy(state_->fibers[static_cast<size_t>(index_)].brought, mine, bytes);
  sync_warp();
  std::memcpy(theirs, state_->fibers[static_cast<size_t>(source)].brought, bytes);
  sync_warp();
}

void* Thread::shared_memory() const {
  // 16-byte aligned; the end is where the launch said it is.
  return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(state_->shared.data()) + 15) &
                                 ~uintptr_t{15});
}

}  // namespace lockstep::cuda
