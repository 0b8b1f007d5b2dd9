// What Memory says when there is no more.
#include <algorithm>
#include <utility>
#include <vector>

#include "lockstep/runtime/cuda/memory.h"

namespace lockstep::cuda {
namespace {

constexpr size_t kHoldersTold = 5;

std::string size_text(int64_t bytes) {
  const auto amount = static_cast<double>(bytes);
  if (bytes < int64_t{1} << 20) return concat({static_cast<long>(bytes), " bytes"});
  if (bytes < int64_t{1} << 30) return concat({amount / (1 << 20), " MiB"});
  return concat({amount / (1 << 30), " GiB"});
}

}  // namespace

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
  const bool by_limit =
      bytes > kAddressSpace ? statistics_.limit_bytes > 0 : !has_room(static_cast<int64_t>(bytes));
  const std::string limit =
      by_limit ? "the limit is " + size_text(statistics_.limit_bytes) : "the device has no more";
  throw OutOfMemory(
      concat({"out of memory on ", device_.to_string(), ": ", holder == nullptr ? "" : holder,
              holder == nullptr ? "" : " asked for ", size_text(static_cast<int64_t>(bytes)),
              holder == nullptr ? " asked for, " : ", ", size_text(statistics_.in_use_bytes),
              " in use, ", size_text(statistics_.reserved_bytes - statistics_.in_use_bytes),
              " cached, ", limit, "; held by ", largest_holders()}));
}

}  // namespace lockstep::cuda
