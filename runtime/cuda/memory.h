#pragma once

#include <condition_variable>
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
// Whole segments go back to the device when it has no more, or the limit is reached, but those that
// were reserved. Of a reserved segment parts serve small blocks, or captures, until they are free
// as a whole; of others small blocks, before anybody is refused. Knows who holds what. Thread-safe.
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
  // Backend::reserve.
  void reserve(int64_t bytes);
  // Between the two what this thread asks for comes from segments that serve captures alone: what
  // is free there is written to by replays. All captures share them, since no two run at a time:
  // they are one thread's. Throws NotCapturable where another thread has some.
  void begin_capture();
  void end_capture();
  // One capture less; after the last one its segments are everybody's.
  void release_capture();
  // While it lives, other threads that ask for memory wait, and none goes back to the device: what
  // this thread gives back may still be written to, by a graph that is timed. One to a thread.
  class Alone {
   public:
    explicit Alone(Memory& memory);
    ~Alone();
    Alone(const Alone&) = delete;
    Alone& operator=(const Alone&) = delete;

   private:
    Memory& memory_;
  };
  // Backend::on_shortage.
  void on_shortage(const void* who, std::function<bool()> let_captures_go);
  void set_limit(int64_t bytes);
  MemoryStatistics statistics() const;

 private:
  using Lock = std::unique_lock<std::mutex>;
  static constexpr size_t kAddressSpace = size_t{1} << 47;

  struct Pool;
  // A part of a segment, between its neighbours there.
  struct Block {
    char* data;
    size_t bytes;
    bool small;  // of a segment, or a part of one, for small blocks
    Pool* pool;
    bool reserved = false;  // of a segment that was
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

  enum class Trims { no, yes };
  enum class Of { reserved, any };

  Block* find(size_t bytes, bool kept_ones_too = false);
  Block* take_part(size_t bytes, Of of);
  Block* take_segment(size_t bytes, Trims trims, Lock& lock);
  void* ask_device(size_t bytes, Trims trims, Lock& lock);
  Block* add_segment(void* data, size_t bytes, bool small, Pool* pool);
  void cut(Block* block, size_t bytes);
  void put_back(Block* block);
  void join_after(Block* block);
  static Free& free_of(const Block* block) { return block->pool->free[block->small ? 0 : 1]; }
  // Where the calling thread's memory comes from.
  Pool* pool() { return capturing_ == std::this_thread::get_id() ? &captured_ : &common_; }
  bool may_trim() const;
  bool has_room(int64_t bytes) const;
  bool make_room(int64_t bytes, Trims trims, Lock& lock);
  bool captures_give_way(Lock& lock);
  void trim(Lock& lock);
  Lock lock_in_turn();
  void await_turn(Lock& lock);
  void note(int64_t in_use, int64_t reserved);
  [[noreturn]] void fail_out_of_memory(size_t bytes, const char* holder) const;
  std::string largest_holders() const;

  Driver& driver_;
  Device device_;
  mutable std::mutex mutex_;  // guards all below
  std::unordered_map<void*, std::unique_ptr<Block>> blocks_;
  Pool common_, captured_;
  int captures_ = 0;
  std::thread::id captor_;     // whose they are
  std::thread::id capturing_;  // of no thread: nobody is
  std::thread::id alone_;
  std::condition_variable turn_;  // nobody is alone any more
  struct Captor {
    std::thread::id thread;
    std::function<bool()> lets_go;
  };
  std::map<const void*, Captor> captors_;
  int64_t foreign_bytes_ = 0;  // brought by others
  MemoryStatistics statistics_;
};

}  // namespace lockstep::cuda
