#include "lockstep/collectives/mpi/host_reduce.h"

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <thread>
#include <vector>

#include "lockstep/collectives/reduce_cpu.h"
#include "lockstep/runtime/error.h"

namespace lockstep::mpi {
namespace {

// Parts end on cache lines; no two ranks write to one.
constexpr int64_t kLineBytes = 64;
constexpr int kOffsetBits = 44;

struct Part {
  int64_t first = 0;
  int64_t elements = 0;
};

Part part_of(int64_t elements, int64_t width, int index, int count) {
  const int64_t line = kLineBytes / width;
  const int64_t each = (elements + count * line - 1) / (count * line) * line;
  const int64_t first = std::min(elements, index * each);
  return {first, std::min(each, elements - first)};
}

bool turned_off() {
  const char* setting = std::getenv("LOCKSTEP_SHARED_WINDOW");
  return setting != nullptr && std::string_view(setting) == "off";
}

}  // namespace

HostReduce::HostReduce(Library& library, int group, int rank, int size)
    : hosts_(rank, size, [&library, group](const void* mine, void* all, int bytes) {
        const int code = library.all_gather(group, mine, all, bytes, bytes);
        LOCKSTEP_CHECK(code == 0, "MPI: error ", code, " while ranks look for their neighbours");
      }) {
  if (!hosts_.usable()) return;
  if (hosts_.hosts() > 1) {
    const int code = library.split(group, hosts_.local_rank(), rank, &between_);
    LOCKSTEP_CHECK(code == 0, "MPI: error ", code, " while ranks find those on other hosts");
  }
  signals_ = hosts_.allocate(sizeof(Signal) * static_cast<size_t>(hosts_.local_size()), &refused_);
}

HostReduce::Signal& HostReduce::signal(int local_rank) const {
  return reinterpret_cast<Signal*>(signals_->segment(0))[local_rank];
}

std::shared_ptr<HostMemory> HostReduce::allocate(size_t bytes, std::string* reason) {
  *reason = refused_;
  if (!signals_ || turned_off()) return nullptr;
  auto memory = hosts_.allocate(std::max<size_t>(bytes, 1), reason);
  std::erase_if(memories_, [](const auto& held) { return held.second.expired(); });
  if (memory) memories_[allocations_++] = memory;
  return memory;
}

int64_t HostReduce::place_of(const WorkState& work) const {
  const bool sums = work.reduction == ReduceOp::sum || work.reduction == ReduceOp::mean;
  if (work.collective != Collective::all_reduce || !sums || work.elements == 0) return -1;
  if (!is_floating(work.dtype) || turned_off()) return -1;
  // The sum of a host's ranks would be rounded before it goes to the other hosts.
  if (size_of(work.dtype) < sizeof(float) && hosts_.hosts() > 1) return -1;
  for (const auto& [number, held] : memories_) {
    const auto memory = held.lock();
    if (!memory || !memory->owns(work.output.data(), work.output.bytes())) continue;
    return (number << kOffsetBits) + static_cast<int64_t>(memory->offset_of(work.output.data()));
  }
  return -1;
}

bool HostReduce::all_reduce(
    const WorkState& work,
    const std::function<void(int group, void*, int64_t)>& reduce_between_hosts,
    const std::function<bool()>& advanced) {
  const auto memory = memories_.at(place_of(work) >> kOffsetBits).lock();
  const int64_t width = static_cast<int64_t>(size_of(work.dtype));
  const Part part = part_of(work.elements, width, hosts_.local_rank(), hosts_.local_size());
  const size_t offset =
      memory->offset_of(work.output.data()) + static_cast<size_t>(part.first * width);
  std::vector<const void*> inputs;
  std::vector<void*> outputs;
  for (int i = 0; i < hosts_.local_size(); ++i) {
    inputs.push_back(memory->segment(i) + offset);
    outputs.push_back(memory->segment(i) + offset);
  }
  if (hosts_.hosts() == 1) {
    reduce_in_order(work.reduction, work.dtype, inputs, outputs, part.elements);
  } else {
    void* mine = outputs[static_cast<size_t>(hosts_.local_rank())];
    reduce_in_order(ReduceOp::sum, work.dtype, inputs, {&mine, 1}, part.elements);
    reduce_between_hosts(between_, mine, part.elements);
    if (work.reduction == ReduceOp::mean) scale(work.dtype, mine, part.elements, 1.0 / work.size);
    for (void* output : outputs) {
      if (output != mine) std::memcpy(output, mine, static_cast<size_t>(part.elements * width));
    }
  }
  return meet(work, advanced);
}

// Returns when every local rank has come here as often.
bool HostReduce::meet(const WorkState& work, const std::function<bool()>& advanced) {
  ++meetings_;
  signal(hosts_.local_rank()).arrived.store(meetings_, std::memory_order_release);
  if (!advanced()) return false;
  for (int i = 0; i < hosts_.local_size(); ++i) {
    const Signal& other = signal(i);
    for (int64_t turn = 0; other.arrived.load(std::memory_order_acquire) < meetings_; ++turn) {
      if (work.done()) return false;  // given up
      // The other may need this core; after a while waiting is cheap rather than quick.
      if (turn < 2000) {
        ::sched_yield();
      } else {
        std::this_thread::sleep_for(std::chrono::microseconds(20));
      }
    }
  }
  return true;
}

}  // namespace lockstep::mpi
