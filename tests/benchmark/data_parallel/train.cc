// Trains with a communication hook, to compare losses and the bytes that cross the network.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "benchmark/data_parallel/modes.h"

namespace lockstep::benchmark {

int run_train(const GptOptions& options, const DataParallelFlags& flags,
              Communicator& communicator) {
  GptTraining training(options, communicator, flags.options());
  double last = 0;  // mean of the last twenty steps' losses
  for (int step = 0; step < flags.rounds; ++step) {
    const double loss = training.step();
    if (step >= flags.rounds - 20) last += loss / std::min(20, flags.rounds);
  }
  int64_t elements = 0;
  for (const nn::NamedParameter& named : training.ddp().parameters()) {
    elements += named.parameter.elements();
  }
  if (communicator.rank() != 0) return 0;
  std::printf("%s\n", nlohmann::ordered_json{{"benchmark", "train"},
                                             {"ranks", communicator.size()},
                                             {"hook", flags.hook},
                                             {"steps", flags.rounds},
                                             {"parameters", elements},
                                             {"loss", last}}
                          .dump()
                          .c_str());
  return 0;
}

}  // namespace lockstep::benchmark
