#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>

#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/cuda/driver.h"

namespace lockstep::cuda {

// A device's memory, for work that is queued on one stream: a block that is freed may be handed out
// again at once, because what is queued later runs later. Memory is taken from the device in
// segments that are cut into blocks; the smallest free block that fits is taken, and neighbours
// that are free become one again. Whole segments go back to the device when it has no more, or the
// limit is reached. Knows who holds what. Thread-safe.
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
  void set_limit(int64_t bytes);
  MemoryStatistics statistics() const;

 private:
  using Lock = std::unique_lock<std::mutex>;

  // A part of a segment, between its neighbours there.
  struct Block {
    char* data;
    size_t bytes;
    bool small;  // of a segment for small blocks
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

  Block* find(size_t bytes);
  Block* take_segment(size_t bytes, Lock& lock);
  void cut(Block* block, size_t bytes);
  void join_after(Block* block);
  Free& free_of(const Block* block) { return free_[block->small ? 0 : 1]; }
  bool make_room(int64_t bytes, Lock& lock);
  void trim(Lock& lock);
  void note(int64_t in_use, int64_t reserved);
  [[noreturn]] void fail_out_of_memory(size_t bytes, const char* holder) const;
  std::string largest_holders() const;

  Driver& driver_;
  Device device_;
  mutable std::mutex mutex_;  // guards all below
  std::unordered_map<void*, std::unique_ptr<Block>> blocks_;
  Free free_[2];               // small, large
  int64_t foreign_bytes_ = 0;  // brought by others
  MemoryStatistics statistics_;
};

}  // namespace lockstep::cuda
