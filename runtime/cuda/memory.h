#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>

#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/cuda/driver.h"

namespace lockstep::cuda {

// A device's memory, for work that is queued on one stream: a block that is freed may be handed out
// again at once, because what is queued later runs later. Memory is taken from the device in
// segments that are cut into blocks; the smallest free block that fits is taken, a large one for a
// small request only where the device has no more, and neighbours that are free become one again.
// Whole segments go back to the device when it has no more, or the limit is reached. Knows who
// holds what. Thread-safe.
class Memory {
 public:
  Memory(Driver& driver, Device device);
  ~Memory();

  // 512-byte aligned. `holder` (of static duration, may be null) names who will hold it, an op or a
  // part of the program. Throws OutOfMemory naming it, the size, what is in use, and the largest
  // holders.
  void* allocate(size_t bytes, const char* holder);
  void deallocate(void* data);
  // Of who brings memory of its own: Backend::account.
  void account(int64_t bytes);
  void trim();
  // Between the two what this thread asks for comes from segments that serve captures alone: what
  // is free there is written to by replays. All captures share them, since no two run at a time.
  // One thread at a time.
  void begin_capture();
  void end_capture();
  // One capture less; after the last one its segments are everybody's.
  void release_capture();
  // Backend::on_shortage.
  void on_shortage(const void* who, std::function<bool()> let_captures_go);
  void set_limit(int64_t bytes);
  MemoryStatistics statistics() const;

 private:
  using Lock = std::unique_lock<std::mutex>;

  struct Pool;
  // A part of a segment, between its neighbours there.
  struct Block {
    char* data;
    size_t bytes;
    bool small;  // of a segment for small blocks
    Pool* pool;
    const char* holder = nullptr;
    Block* before = nullptr;
    Block* after = nullptr;
  };
  struct BySize {
    bool operator()(const Block* a, const Block* b) const {
      return a->bytes != b->bytes ? a->bytes < b->bytes : a->data < b->data;
    }
  };
  using Free = std::set<Block*, BySize>;

  struct Pool {
    Free free[2];  // small, large
  };

  Block* find(size_t bytes, bool kept_ones_too = false);
  Block* take_segment(size_t bytes, Lock& lock);
  void cut(Block* block, size_t bytes);
  void join_after(Block* block);
  static Free& free_of(const Block* block) { return block->pool->free[block->small ? 0 : 1]; }
  // Where the calling thread's memory comes from.
  Pool* pool() { return capturing_ == std::this_thread::get_id() ? &captured_ : &common_; }
  bool make_room(int64_t bytes, Lock& lock);
  bool captures_give_way(Lock& lock);
  void trim(Lock& lock);
  void note(int64_t in_use, int64_t reserved);
  [[noreturn]] void fail_out_of_memory(size_t bytes, const char* holder) const;
  std::string largest_holders() const;

  Driver& driver_;
  Device device_;
  mutable std::mutex mutex_;  // guards all below
  std::unordered_map<void*, std::unique_ptr<Block>> blocks_;
  Pool common_, captured_;
  int captures_ = 0;
  std::thread::id capturing_;  // of no thread: nobody is
  struct Captor {
    std::thread::id thread;
    std::function<bool()> lets_go;
  };
  std::map<const void*, Captor> captors_;
  int64_t foreign_bytes_ = 0;  // brought by others
  MemoryStatistics statistics_;
};

}  // namespace lockstep::cuda
