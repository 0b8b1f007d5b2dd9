#include "benchmark/collectives/timing.h"

#include <algorithm>
#include <chrono>

#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::benchmark {
namespace {

constexpr int kRounds = 5;
constexpr int64_t kBytesOfARound = 256 << 20;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

Timing time_calls(const Case& of, Communicator& communicator, const Memory& memory) {
  const Memory::Windows windows = memory.windows(of, communicator.size());
  kernels::fill(windows.whole, 0);
  kernels::fill(windows.around, 0);
  Backend& backend = backend_of(communicator.device());
  const int64_t calls = std::clamp<int64_t>(kBytesOfARound / of.bytes, 3, 50);
  std::vector<double> seconds, own;
  for (int round = -1; round < kRounds; ++round) {  // the first is not counted
    backend.synchronize();
    communicator.barrier({.what = "round"}).wait();
    std::vector<Work> works;
    const auto begin = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < calls; ++i) works.push_back(start(of, communicator, windows));
    for (const Work& work : works) work.wait();
    backend.synchronize();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    if (round < 0) continue;
    seconds.push_back(taken.count() / static_cast<double>(calls));
    communicator.barrier({.what = "round"}).wait();  // then the transport knows that all are done
    for (const Work& work : works) {
      own.push_back(std::chrono::duration<double>(work.duration()).count());
    }
  }
  const Array slowest = Array::from({median(seconds), median(own)}, {2});
  communicator.all_reduce(slowest, ReduceOp::max, {.what = "times"}).wait();
  return {slowest.data<double>()[0], slowest.data<double>()[1]};
}

Bandwidth bandwidth(const Case& of, int ranks, double seconds) {
  const auto bytes =
      static_cast<double>(total_elements(of, ranks)) * static_cast<double>(size_of(of.dtype));
  const double algorithm = bytes / seconds, others = (ranks - 1.0) / ranks;
  switch (of.call) {
    case Call::all_reduce: return {algorithm, algorithm * 2 * others};
    case Call::broadcast: return {algorithm, algorithm};
    default: return {algorithm, algorithm * others};
  }
}

}  // namespace lockstep::benchmark
