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
constexpr size_t kAddressSpace = size_t{1} << 47;
constexpr size_t kHoldersTold = 5;

constexpr size_t rounded(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

std::string size_text(int64_t bytes) {
  const auto amount = static_cast<double>(bytes);
  if (bytes < int64_t{1} << 20) return concat({static_cast<long>(bytes), " bytes"});
  if (bytes < int64_t{1} << 30) return concat({amount / (1 << 20), " MiB"});
  return concat({amount / (1 << 30), " GiB"});
}

}  // namespace

Memory::Memory(Driver& driver, Device device) : driver_(driver), device_(device) {}

Memory::~Memory() { trim(); }

void* Memory::allocate(size_t bytes, const char* holder) {
  std::unique_lock lock(mutex_);
  if (bytes > kAddressSpace) fail_out_of_memory(bytes, holder);
  ++statistics_.allocations;
  const size_t wanted = std::max(kUnit, rounded(bytes, kUnit));
  Block* block = find(wanted);
  if (block == nullptr) block = take_segment(wanted, lock);
  if (block == nullptr) block = find(wanted, true);
  if (block == nullptr && captures_give_way(lock)) {
    block = find(wanted, true);
    if (block == nullptr) block = take_segment(wanted, lock);
  }
  if (block == nullptr) fail_out_of_memory(bytes, holder);
  cut(block, wanted);
  block->holder = holder == nullptr ? "others" : holder;
  note(static_cast<int64_t>(block->bytes), 0);
  return block->data;
}

// The smallest free block that fits, taken out of the free ones.
Memory::Block* Memory::find(size_t bytes, bool kept_ones_too) {
  Free& free = pool()->free[bytes <= kLargestSmall ? 0 : 1];
  Block key{.data = nullptr, .bytes = bytes, .small = false, .pool = nullptr};
  const auto found = free.lower_bound(&key);
  if (found == free.end()) return nullptr;
  Block* block = *found;
  const bool kept = block->bytes >= kSmallestKept && bytes < block->bytes / kKeptShare;
  if (kept && !kept_ones_too) return nullptr;
  free.erase(found);
  return block;
}

Memory::Block* Memory::take_segment(size_t bytes, Lock& lock) {
  const bool small = bytes <= kLargestSmall;
  size_t segment = small                     ? kSmallSegment
                   : bytes <= kLargestShared ? kLargeSegment
                                             : rounded(bytes, kSegmentUnit);
  void* data = nullptr;
  // Where there is no room for a whole segment, there may be for the block.
  for (const size_t size : {segment, bytes}) {
    if (!make_room(static_cast<int64_t>(size), lock)) continue;
    data = driver_.allocate(size);
    if (data == nullptr && pool() == &common_) {
      trim(lock);
      data = driver_.allocate(size);
    }
    segment = size;
    if (data != nullptr) break;
  }
  if (data == nullptr) return nullptr;
  ++statistics_.system_allocations;
  note(0, static_cast<int64_t>(segment));
  auto block = std::make_unique<Block>(
      Block{.data = static_cast<char*>(data), .bytes = segment, .small = small, .pool = pool()});
  Block* taken = block.get();
  blocks_.emplace(data, std::move(block));
  return taken;
}

// Leaves `block` with `bytes`; what is over becomes a free block where another could use it.
void Memory::cut(Block* block, size_t bytes) {
  const size_t rest = block->bytes - bytes;
  if (rest < (block->small ? kUnit : kLargestSmall)) return;
  auto part = std::make_unique<Block>(Block{.data = block->data + bytes,
                                            .bytes = rest,
                                            .small = block->small,
                                            .pool = block->pool,
                                            .before = block,
                                            .after = block->after});
  if (part->after != nullptr) part->after->before = part.get();
  block->after = part.get();
  block->bytes = bytes;
  free_of(block).insert(part.get());
  blocks_.emplace(part->data, std::move(part));
}

void Memory::deallocate(void* data) {
  if (data == nullptr) return;
  const std::lock_guard lock(mutex_);
  Block* block = blocks_.at(data).get();
  note(-static_cast<int64_t>(block->bytes), 0);
  block->holder = nullptr;
  join_after(block);
  if (block->before != nullptr && block->before->holder == nullptr) {
    block = block->before;
    free_of(block).erase(block);
    join_after(block);
  }
  free_of(block).insert(block);
}

// Takes the next block in where it is free, or about to be.
void Memory::join_after(Block* block) {
  Block* next = block->after;
  if (next == nullptr || next->holder != nullptr) return;
  free_of(next).erase(next);
  block->bytes += next->bytes;
  block->after = next->after;
  if (block->after != nullptr) block->after->before = block;
  blocks_.erase(next->data);
}

void Memory::account(int64_t bytes) {
  std::unique_lock lock(mutex_);
  if (bytes > 0 && !make_room(bytes, lock)) fail_out_of_memory(static_cast<size_t>(bytes), nullptr);
  foreign_bytes_ += bytes;
  note(bytes, bytes);
}

// Whether the limit allows so much more, once what is cached is given back.
bool Memory::make_room(int64_t bytes, Lock& lock) {
  const int64_t limit = statistics_.limit_bytes;
  if (limit == 0 || statistics_.reserved_bytes + bytes <= limit) return true;
  if (pool() == &captured_) return false;  // the device cannot be waited for
  trim(lock);
  return statistics_.reserved_bytes + bytes <= limit;
}

void Memory::trim() {
  std::unique_lock lock(mutex_);
  trim(lock);
}

// The device frees memory when what runs there has ended, which may take somebody else's failure:
// nobody is kept waiting meanwhile.
void Memory::trim(Lock& lock) {
  std::vector<void*> segments;
  for (Free& free : common_.free) {
    for (auto at = free.begin(); at != free.end();) {
      Block* block = *at;
      if (block->before != nullptr || block->after != nullptr) {
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
}

void Memory::begin_capture() {
  const std::lock_guard lock(mutex_);
  ++captures_;
  capturing_ = std::this_thread::get_id();
}

void Memory::end_capture() {
  const std::lock_guard lock(mutex_);
  capturing_ = {};
}

void Memory::release_capture() {
  const std::lock_guard lock(mutex_);
  if (--captures_ > 0) return;
  for (const auto& [data, block] : blocks_) block->pool = &common_;
  for (int i = 0; i < 2; ++i) common_.free[i].merge(captured_.free[i]);
}

void Memory::on_shortage(const void* who, std::function<bool()> let_captures_go) {
  const std::lock_guard lock(mutex_);
  captors_.erase(who);
  if (!let_captures_go) return;
  captors_[who] = {std::this_thread::get_id(), std::move(let_captures_go)};
}

bool Memory::captures_give_way(Lock& lock) {
  if (captures_ == 0 || pool() == &captured_) return false;
  std::vector<std::function<bool()>> mine;  // of this thread
  for (const auto& [who, captor] : captors_) {
    if (captor.thread == std::this_thread::get_id()) mine.push_back(captor.lets_go);
  }
  lock.unlock();
  bool given = false;
  for (const auto& lets_go : mine) given = lets_go() || given;
  lock.lock();
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

// "matmul 3.2 GiB in 24, gelu 1.5 GiB in 12"
std::string Memory::largest_holders() const {
  struct Sum {
    int64_t bytes = 0;
    int64_t blocks = 0;
  };
  std::map<std::string, Sum> sums;
  for (const auto& [data, block] : blocks_) {
    if (block->holder == nullptr) continue;
    Sum& sum = sums[block->holder];
    sum.bytes += static_cast<int64_t>(block->bytes);
    ++sum.blocks;
  }
  if (foreign_bytes_ > 0) sums["communication"] = {foreign_bytes_, 1};
  std::vector<std::pair<std::string, Sum>> sorted(sums.begin(), sums.end());
  std::sort(sorted.begin(), sorted.end(),
            [](const auto& a, const auto& b) { return a.second.bytes > b.second.bytes; });
  std::string text;
  for (size_t i = 0; i < std::min(sorted.size(), kHoldersTold); ++i) {
    const auto& [name, sum] = sorted[i];
    text += concat({i == 0 ? "" : ", ", name, " ", size_text(sum.bytes), " in ",
                    static_cast<long>(sum.blocks)});
  }
  return text.empty() ? "nobody" : text;
}

void Memory::fail_out_of_memory(size_t bytes, const char* holder) const {
  const std::string limit = statistics_.limit_bytes > 0
                                ? "the limit is " + size_text(statistics_.limit_bytes)
                                : "the device has no more";
  throw OutOfMemory(
      concat({"out of memory on ", device_.to_string(), ": ", holder == nullptr ? "" : holder,
              holder == nullptr ? "" : " asked for ", size_text(static_cast<int64_t>(bytes)),
              holder == nullptr ? " asked for, " : ", ", size_text(statistics_.in_use_bytes),
              " in use, ", size_text(statistics_.reserved_bytes - statistics_.in_use_bytes),
              " cached, ", limit, "; held by ", largest_holders()}));
}

}  // namespace lockstep::cuda
