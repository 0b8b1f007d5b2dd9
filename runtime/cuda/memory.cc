#include "lockstep/runtime/cuda/memory.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace lockstep::cuda {
namespace {

constexpr size_t kUnit = 512;
constexpr size_t kMiB = size_t{1} << 20;
constexpr size_t kLargestSmall = 1 * kMiB;  // smaller ones share segments of kSmallSegment
constexpr size_t kSmallSegment = 2 * kMiB;
constexpr size_t kLargestShared = 10 * kMiB;  // up to here a segment is kLargeSegment
constexpr size_t kLargeSegment = 20 * kMiB;
constexpr size_t kSegmentUnit = 2 * kMiB;
// Blocks of this size are kept for requests of at least a fourth of theirs. Without it what lives
// long (an optimizer's state) comes into the place of what the next step needs as a whole (logits).
constexpr size_t kSmallestKept = 200 * kMiB;
constexpr size_t kKeptShare = 4;

constexpr size_t rounded(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

constexpr bool is_small(size_t bytes) { return bytes <= kLargestSmall; }

// Of the segment that is taken for a block.
constexpr size_t segment_bytes(size_t bytes) {
  if (is_small(bytes)) return kSmallSegment;
  return bytes <= kLargestShared ? kLargeSegment : rounded(bytes, kSegmentUnit);
}

// The smallest block of at least `bytes` that may be taken, out of the free ones; null: none.
template <class Free, class May>
auto take_smallest(Free& free, typename Free::key_type key, const May& may) {
  auto found = free.lower_bound(key);
  while (found != free.end() && !may(**found)) ++found;
  return found == free.end() ? nullptr : free.extract(found).value();
}

}  // namespace

Memory::Memory(Driver& driver, Device device) : driver_(driver), device_(device) {}

Memory::~Memory() {
  for (const auto& [data, block] : blocks_) block->reserved = false;
  trim();
}

void* Memory::allocate(size_t bytes, const char* holder) {
  Lock lock = lock_in_turn();
  if (bytes > kAddressSpace) fail_out_of_memory(bytes, holder);
  ++statistics_.allocations;
  const size_t wanted = std::max(kUnit, rounded(bytes, kUnit));
  Block* block = find(wanted);
  if (block == nullptr) block = take_part(wanted, Of::reserved);
  if (block == nullptr) block = take_segment(wanted, Trims::no, lock);
  if (block == nullptr) block = find(wanted, true);
  if (block == nullptr) block = take_segment(wanted, Trims::yes, lock);
  if (block == nullptr) block = take_part(wanted, Of::any);
  if (block == nullptr && captures_give_way(lock)) {
    block = find(wanted, true);
    if (block == nullptr) block = take_part(wanted, Of::reserved);
    if (block == nullptr) block = take_segment(wanted, Trims::yes, lock);
    if (block == nullptr) block = take_part(wanted, Of::any);
  }
  if (block == nullptr) fail_out_of_memory(bytes, holder);
  cut(block, wanted);
  block->holder = holder == nullptr ? "others" : holder;
  note(static_cast<int64_t>(block->bytes), 0);
  return block->data;
}

Memory::Block* Memory::find(size_t bytes, bool kept_ones_too) {
  Block key{.data = nullptr, .bytes = bytes, .small = false, .pool = nullptr};
  return take_smallest(pool()->free[is_small(bytes) ? 0 : 1], &key, [&](const Block& block) {
    return kept_ones_too || block.reserved || block.bytes < kSmallestKept ||
           bytes >= block.bytes / kKeptShare;
  });
}

// A part of what is free and was reserved, as a segment of its own: for small blocks, or a capture.
// Of what was not, for small blocks alone: a capture's parts go back when it does.
Memory::Block* Memory::take_part(size_t bytes, Of of) {
  if (of == Of::any && pool() == &captured_) return nullptr;
  for (const size_t size : {segment_bytes(bytes), bytes}) {
    Block key{.data = nullptr, .bytes = size, .small = false, .pool = nullptr};
    Block* block = take_smallest(common_.free[1], &key, [of](const Block& candidate) {
      return of == Of::any || candidate.reserved;
    });
    if (block == nullptr) continue;
    cut(block, size);
    block->small = is_small(bytes);
    block->pool = pool();
    return block;
  }
  return nullptr;
}

// Where there is no room for a whole segment, there may be for the block.
Memory::Block* Memory::take_segment(size_t bytes, Trims trims, Lock& lock) {
  size_t segment = segment_bytes(bytes);
  void* data = ask_device(segment, trims, lock);
  if (data == nullptr && trims == Trims::yes) {
    segment = bytes;
    data = ask_device(segment, trims, lock);
  }
  if (data == nullptr) return nullptr;
  ++statistics_.system_allocations;
  return add_segment(data, segment, is_small(bytes), pool());
}

void* Memory::ask_device(size_t bytes, Trims trims, Lock& lock) {
  if (!make_room(static_cast<int64_t>(bytes), trims, lock)) return nullptr;
  void* data = driver_.allocate(bytes);
  if (data == nullptr && trims == Trims::yes && may_trim()) {
    trim(lock);
    data = driver_.allocate(bytes);
  }
  return data;
}

Memory::Block* Memory::add_segment(void* data, size_t bytes, bool small, Pool* pool) {
  note(0, static_cast<int64_t>(bytes));
  auto block = std::make_unique<Block>(
      Block{.data = static_cast<char*>(data), .bytes = bytes, .small = small, .pool = pool});
  return blocks_.emplace(data, std::move(block)).first->second.get();
}

void Memory::reserve(int64_t bytes) {
  LOCKSTEP_CHECK(bytes >= 0, "reserve: ", static_cast<long>(bytes), " bytes");
  if (bytes == 0) return;
  const auto size = static_cast<size_t>(bytes);
  Lock lock = lock_in_turn();
  void* data = size <= kAddressSpace ? ask_device(size, Trims::yes, lock) : nullptr;
  if (data == nullptr) fail_out_of_memory(size, nullptr);
  Block* block = add_segment(data, size, false, &common_);
  block->reserved = true;
  put_back(block);
}

// Leaves `block` with `bytes`; what is over becomes a free block where another could use it.
void Memory::cut(Block* block, size_t bytes) {
  const size_t rest = block->bytes - bytes;
  if (rest < (block->small ? kUnit : kLargestSmall)) return;
  auto part = std::make_unique<Block>(Block{.data = block->data + bytes,
                                            .bytes = rest,
                                            .small = block->small,
                                            .pool = block->pool,
                                            .reserved = block->reserved,
                                            .before = block,
                                            .after = block->after});
  if (part->after != nullptr) part->after->before = part.get();
  block->after = part.get();
  block->bytes = bytes;
  Block* const over = part.get();
  blocks_.emplace(over->data, std::move(part));
  join_after(over);
  free_of(over).insert(over);
}

void Memory::deallocate(void* data) {
  if (data == nullptr) return;
  const std::lock_guard lock(mutex_);
  Block* block = blocks_.at(data).get();
  note(-static_cast<int64_t>(block->bytes), 0);
  block->holder = nullptr;
  put_back(block);
}

// Joined with free neighbours of its kind.
void Memory::put_back(Block* block) {
  for (;;) {
    join_after(block);
    if (Block* before = block->before; before != nullptr && before->holder == nullptr &&
                                       before->small == block->small &&
                                       before->pool == block->pool) {
      block = before;
      free_of(block).erase(block);
      join_after(block);
    }
    const auto has_small = [&](const Block* neighbour) {
      return neighbour != nullptr && neighbour->small && neighbour->pool == block->pool;
    };
    const bool is_segment = block->before == nullptr && block->after == nullptr;
    const bool began_small = is_segment && !block->reserved && block->bytes <= kSmallSegment;
    if (!block->small || began_small) break;
    if (has_small(block->before) || has_small(block->after)) break;
    block->small = false;  // a part that served small blocks, and holds none any more
  }
  free_of(block).insert(block);
}

// Takes the next block in where it is free, and of the same kind.
void Memory::join_after(Block* block) {
  Block* next = block->after;
  if (next == nullptr || next->holder != nullptr) return;
  if (next->small != block->small || next->pool != block->pool) return;
  free_of(next).erase(next);
  block->bytes += next->bytes;
  block->after = next->after;
  if (block->after != nullptr) block->after->before = block;
  blocks_.erase(next->data);
}

void Memory::account(int64_t bytes) {
  if (bytes <= 0) {  // what goes waits for nobody
    const std::lock_guard lock(mutex_);
    foreign_bytes_ += bytes;
    return note(bytes, bytes);
  }
  Lock lock = lock_in_turn();
  if (!make_room(bytes, Trims::yes, lock)) fail_out_of_memory(static_cast<size_t>(bytes), nullptr);
  foreign_bytes_ += bytes;
  note(bytes, bytes);
}

// Not for what is captured, because the device cannot be waited for then; nor alone.
bool Memory::may_trim() const {
  const std::thread::id me = std::this_thread::get_id();
  return capturing_ != me && alone_ != me;
}

bool Memory::has_room(int64_t bytes) const {
  return statistics_.limit_bytes == 0 ||
         statistics_.reserved_bytes + bytes <= statistics_.limit_bytes;
}

// Whether the limit allows so much more, once what is cached is given back.
bool Memory::make_room(int64_t bytes, Trims trims, Lock& lock) {
  if (has_room(bytes)) return true;
  if (trims == Trims::no || !may_trim()) return false;
  trim(lock);
  return has_room(bytes);
}

void Memory::trim() {
  Lock lock = lock_in_turn();
  if (may_trim()) trim(lock);
}

// The device frees memory when what runs there has ended, which may take somebody else's failure:
// nobody is kept waiting meanwhile.
void Memory::trim(Lock& lock) {
  std::vector<void*> segments;
  for (Free& free : common_.free) {
    for (auto at = free.begin(); at != free.end();) {
      Block* block = *at;
      if (block->reserved || block->before != nullptr || block->after != nullptr) {
        ++at;
        continue;
      }
      at = free.erase(at);
      note(0, -static_cast<int64_t>(block->bytes));
      segments.push_back(block->data);
      blocks_.erase(segments.back());
    }
  }
  lock.unlock();
  for (void* segment : segments) driver_.free(segment);
  lock.lock();
  await_turn(lock);
}

Memory::Lock Memory::lock_in_turn() {
  Lock lock(mutex_);
  await_turn(lock);
  return lock;
}

void Memory::await_turn(Lock& lock) {
  const std::thread::id nobody, me = std::this_thread::get_id();
  turn_.wait(lock, [&] { return alone_ == nobody || alone_ == me; });
}

Memory::Alone::Alone(Memory& memory) : memory_(memory) {
  const Lock lock = memory.lock_in_turn();
  memory.alone_ = std::this_thread::get_id();
}

Memory::Alone::~Alone() {
  {
    const std::lock_guard lock(memory_.mutex_);
    memory_.alone_ = {};
  }
  memory_.turn_.notify_all();
}

void Memory::begin_capture() {
  const std::lock_guard lock(mutex_);
  const std::thread::id me = std::this_thread::get_id();
  if (captures_ > 0 && captor_ != me) {
    throw NotCapturable("passes of another thread are captured on this device");
  }
  ++captures_;
  captor_ = capturing_ = me;
}

void Memory::end_capture() {
  const std::lock_guard lock(mutex_);
  capturing_ = {};
}

void Memory::release_capture() {
  const std::lock_guard lock(mutex_);
  if (--captures_ > 0) return;
  std::vector<void*> reserved;  // free parts, which have new neighbours of their kind
  for (const auto& [data, block] : blocks_) {
    if (block->reserved && block->pool == &captured_ && block->holder == nullptr) {
      reserved.push_back(data);
    }
    block->pool = &common_;
  }
  for (int i = 0; i < 2; ++i) common_.free[i].merge(captured_.free[i]);
  for (void* data : reserved) {
    const auto found = blocks_.find(data);
    if (found == blocks_.end()) continue;  // it has been joined
    Block* block = found->second.get();
    free_of(block).erase(block);
    put_back(block);
  }
}

void Memory::on_shortage(const void* who, std::function<bool()> let_captures_go) {
  const std::lock_guard lock(mutex_);
  captors_.erase(who);
  if (!let_captures_go) return;
  captors_[who] = {std::this_thread::get_id(), std::move(let_captures_go)};
}

bool Memory::captures_give_way(Lock& lock) {
  // What is only timed is not worth them.
  if (captures_ == 0 || pool() == &captured_ || alone_ == std::this_thread::get_id()) return false;
  std::vector<std::function<bool()>> mine;  // of this thread
  for (const auto& [who, captor] : captors_) {
    if (captor.thread == std::this_thread::get_id()) mine.push_back(captor.lets_go);
  }
  lock.unlock();
  bool given = false;
  for (const auto& lets_go : mine) given = lets_go() || given;
  lock.lock();
  await_turn(lock);
  return given;
}

void Memory::note(int64_t in_use, int64_t reserved) {
  statistics_.in_use_bytes += in_use;
  statistics_.reserved_bytes += reserved;
  statistics_.peak_in_use_bytes = std::max(statistics_.peak_in_use_bytes, statistics_.in_use_bytes);
  statistics_.peak_reserved_bytes =
      std::max(statistics_.peak_reserved_bytes, statistics_.reserved_bytes);
}

void Memory::set_limit(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  statistics_.limit_bytes = bytes;
}

MemoryStatistics Memory::statistics() const {
  const std::lock_guard lock(mutex_);
  return statistics_;
}

}  // namespace lockstep::cuda
