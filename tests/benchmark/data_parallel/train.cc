// Trains with a communication hook or sharding, to compare losses, step times, memory and the bytes
// that cross the network.
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "benchmark/data_parallel/modes.h"
#include "lockstep/runtime/backend.h"

namespace lockstep::benchmark {

int run_train(const GptOptions& options, const DataParallelFlags& flags,
              Communicator& communicator) {
  GptTraining training(options, communicator, flags.options());
  double last = 0;  // mean of the last twenty steps' losses
  std::vector<double> times, exposed;
  for (int step = 0; step < flags.rounds; ++step) {
    const auto start = std::chrono::steady_clock::now();
    const double loss = training.step();
    using Milliseconds = std::chrono::duration<double, std::milli>;
    times.push_back(Milliseconds(std::chrono::steady_clock::now() - start).count());
    exposed.push_back(Milliseconds(training.ddp().exposed_communication()).count());
    if (step >= flags.rounds - 20) last += loss / std::min(20, flags.rounds);
  }
  int64_t elements = 0;
  for (const nn::NamedParameter& named : training.ddp().parameters()) {
    elements += named.parameter.elements();
  }
  const MemoryStatistics memory = backend_of({}).statistics();
  const Array bytes = Array::from({memory.in_use_bytes, memory.peak_in_use_bytes}, {2});
  communicator.all_reduce(bytes, ReduceOp::max, {.what = "memory"}).wait();
  if (communicator.rank() != 0) return 0;
  std::printf("%s\n", nlohmann::ordered_json{{"benchmark", "train"},
                                             {"ranks", communicator.size()},
                                             {"hook", flags.hook},
                                             {"steps", flags.rounds},
                                             {"parameters", elements},
                                             {"loss", last},
                                             {"shard", flags.shard},
                                             {"step_ms", median(times)},
                                             {"exposed_ms", median(exposed)},
                                             {"held_bytes", bytes.data<int64_t>()[0]},
                                             {"peak_bytes", bytes.data<int64_t>()[1]}}
                          .dump()
                          .c_str());
  return 0;
}

}  // namespace lockstep::benchmark
