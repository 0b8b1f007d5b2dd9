#include "lockstep/collectives/nccl/staging.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace lockstep::nccl {
namespace {

constexpr size_t kSmallestBlock = 4096;

}  // namespace

int Staging::open(const WorkState& work, Passage* passage) {
  const size_t part = static_cast<size_t>(work.elements) * size_of(work.dtype);
  const size_t own = part * static_cast<size_t>(work.rank);
  size_t whole = part;
  if (work.collective == Collective::reduce_scatter || work.collective == Collective::all_gather) {
    whole *= static_cast<size_t>(work.size);
  }
  passage->input_bytes = passage->output_bytes = whole;
  if (work.collective == Collective::reduce_scatter) {
    passage->output_offset = own;
    passage->output_bytes = part;
  } else if (work.collective == Collective::all_gather) {
    passage->input_offset = own;
    passage->input_bytes = part;
  } else if (work.collective == Collective::barrier) {
    passage->input_bytes = passage->output_bytes = 0;
  }
  const auto large_enough = std::find_if(free_.begin(), free_.end(),
                                         [&](const Block& block) { return block.bytes >= whole; });
  if (large_enough != free_.end()) {
    passage->block = *large_enough;
    free_.erase(large_enough);
    return 0;
  }
  const size_t bytes = std::max(std::bit_ceil(whole), kSmallestBlock);
  void* host = nullptr;
  void* device = nullptr;
  const int code = library_.allocate_staging(bytes, &host, &device);
  if (code == 0) passage->block = {bytes, static_cast<char*>(host), static_cast<char*>(device)};
  return code;
}

int Staging::enter(const Passage& passage, const void* input) {
  if (passage.input_bytes == 0) return 0;
  char* host = passage.block.host + passage.input_offset;
  std::memcpy(host, input, passage.input_bytes);
  return library_.copy(passage.input(), host, passage.input_bytes);
}

int Staging::leave(const Passage& passage) {
  if (passage.output_bytes == 0) return 0;
  char* host = passage.block.host + passage.output_offset;
  return library_.copy(host, passage.output(), passage.output_bytes);
}

void Staging::finish(const Passage& passage, void* output) {
  if (passage.output_bytes > 0) {
    std::memcpy(output, passage.block.host + passage.output_offset, passage.output_bytes);
  }
  free_.push_back(passage.block);
}

}  // namespace lockstep::nccl
