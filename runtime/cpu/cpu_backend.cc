#include "lockstep/runtime/cpu/cpu_backend.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "lockstep/runtime/cpu/cpu_kernels.h"
#include "lockstep/runtime/cpu/level.h"

namespace lockstep {

namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kAddressSpace = size_t{1} << 47;  // what a process can address
constexpr int kClassesPerDoubling = 32;            // a block is at most 3.2% larger than asked
constexpr int kClasses = 8 * sizeof(size_t) * kClassesPerDoubling;

struct SizeClass {
  int index;
  size_t bytes;
};

// Multiples of 64 up to 2048 bytes, then 32 sizes between powers of two.
SizeClass class_of(size_t bytes) {
  const size_t units = std::max<size_t>(1, (bytes + kAlignment - 1) / kAlignment);
  if (units <= kClassesPerDoubling) return {static_cast<int>(units), units * kAlignment};
  constexpr int kFirst = std::bit_width(unsigned{kClassesPerDoubling});
  const int doublings = std::bit_width(units - 1) - kFirst;  // at least 0
  const size_t step = size_t{1} << doublings;
  const size_t steps = (units + step - 1) / step;  // 33 … 64
  return {doublings * kClassesPerDoubling + static_cast<int>(steps), steps * step * kAlignment};
}

}  // namespace

CpuBackend::CpuBackend(std::unique_ptr<Kernels> kernels)
    : kernels_(std::move(kernels)), cached_(kClasses) {}

CpuBackend::~CpuBackend() { trim(); }

std::string CpuBackend::description() const {
  return concat({"CPU, instruction level ", cpu::name_of(cpu::chosen_level())});
}

void* CpuBackend::allocate(size_t bytes, const char* holder) {
  const std::lock_guard lock(mutex_);
  if (bytes > kAddressSpace) fail_out_of_memory(bytes, holder);
  const SizeClass size = class_of(bytes);
  ++statistics_.allocations;
  void* block = nullptr;
  auto& free = cached_[size.index];
  if (!free.empty()) {
    block = free.back();
    free.pop_back();
  } else {
    block = take_from_system(size.bytes);
    if (block == nullptr) fail_out_of_memory(bytes, holder);
  }
  note_in_use(static_cast<int64_t>(size.bytes));
  return block;
}

void CpuBackend::note_in_use(int64_t bytes) {
  statistics_.in_use_bytes += bytes;
  statistics_.peak_in_use_bytes = std::max(statistics_.peak_in_use_bytes, statistics_.in_use_bytes);
}

void CpuBackend::note_reserved(int64_t bytes) {
  statistics_.reserved_bytes += bytes;
  statistics_.peak_reserved_bytes =
      std::max(statistics_.peak_reserved_bytes, statistics_.reserved_bytes);
}

void CpuBackend::account(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (bytes > 0 && !make_room(bytes)) fail_out_of_memory(static_cast<size_t>(bytes), nullptr);
  note_in_use(bytes);
  note_reserved(bytes);
}

void CpuBackend::deallocate(void* data, size_t bytes) {
  if (data == nullptr) return;
  const SizeClass size = class_of(bytes);
  const std::lock_guard lock(mutex_);
  cached_[size.index].push_back(data);
  statistics_.in_use_bytes -= static_cast<int64_t>(size.bytes);
}

bool CpuBackend::has_room(int64_t bytes) const {
  return statistics_.limit_bytes == 0 ||
         statistics_.reserved_bytes + bytes <= statistics_.limit_bytes;
}

// Whether the limit allows so much more, once what is cached is given back.
bool CpuBackend::make_room(int64_t bytes) {
  if (has_room(bytes)) return true;
  trim_locked();
  return has_room(bytes);
}

void* CpuBackend::take_from_system(size_t block_bytes) {
  const int64_t wanted = static_cast<int64_t>(block_bytes);
  if (!make_room(wanted)) return nullptr;
  void* block = std::aligned_alloc(kAlignment, block_bytes);
  if (block == nullptr) {
    trim_locked();
    block = std::aligned_alloc(kAlignment, block_bytes);
  }
  if (block == nullptr) return nullptr;
  ++statistics_.system_allocations;
  note_reserved(wanted);
  return block;
}

void CpuBackend::trim() {
  const std::lock_guard lock(mutex_);
  trim_locked();
}

void CpuBackend::trim_locked() {
  for (auto& blocks : cached_) {
    for (void* block : blocks) std::free(block);
    blocks.clear();
  }
  statistics_.reserved_bytes = statistics_.in_use_bytes;
}

void CpuBackend::fail_out_of_memory(size_t bytes, const char* holder) const {
  const bool by_limit = bytes > kAddressSpace
                            ? statistics_.limit_bytes > 0
                            : !has_room(static_cast<int64_t>(class_of(bytes).bytes));
  const std::string limit = by_limit ? "the limit is " + std::to_string(statistics_.limit_bytes)
                                     : "the system has no more";
  const std::string asked = holder == nullptr ? concat({bytes, " bytes asked for"})
                                              : concat({holder, " asked for ", bytes, " bytes"});
  throw OutOfMemory(concat({"out of memory on cpu: ", asked, ", ",
                            static_cast<long>(statistics_.in_use_bytes), " in use, ", limit}));
}

void CpuBackend::set_limit(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  statistics_.limit_bytes = bytes;
}

MemoryStatistics CpuBackend::statistics() const {
  const std::lock_guard lock(mutex_);
  return statistics_;
}

void CpuBackend::copy_from_host(void* to, const void* from, size_t bytes) {
  if (bytes != 0) std::memcpy(to, from, bytes);
}

void CpuBackend::copy_to_host(void* to, const void* from, size_t bytes) {
  if (bytes != 0) std::memcpy(to, from, bytes);
}

std::unique_ptr<Backend> make_cpu_backend() {
  return std::make_unique<CpuBackend>(
      std::make_unique<cpu::CpuKernels>(cpu::loops_of(cpu::chosen_level())));
}

}  // namespace lockstep
