// Which bucket size makes steps shortest, and whether the tuner finds it.
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "benchmark/data_parallel/modes.h"

namespace lockstep::benchmark {
namespace {

double seconds_of(GptTraining& training, Communicator& communicator) {
  communicator.barrier().wait();
  const auto start = std::chrono::steady_clock::now();
  training.step();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

int run_sweep(const GptOptions& options, const DataParallelFlags& flags,
              Communicator& communicator) {
  double tuned_mb = 0;
  {
    nn::DataParallelOptions tuned = flags.options();
    tuned.tune_bucket_sizes = true;
    GptTraining training(options, communicator, tuned);
    int steps = 0;
    do training.step();
    while (++steps < 3 || training.ddp().tuning());
    tuned_mb = training.ddp().bucket_mb();
  }
  GptTraining training(options, communicator, flags.options());
  training.step();
  training.step();
  double total_mb = 0;
  for (const nn::NamedParameter& named : training.ddp().parameters()) {
    total_mb += static_cast<double>(named.parameter.elements()) * 4 / (1 << 20);
  }
  const nn::BucketSizes usual = flags.options().bucket_sizes;
  std::vector<double> sizes = nn::BucketTuner(total_mb, usual.other_mb).sizes();
  sizes.push_back(tuned_mb);
  std::vector<std::vector<double>> seconds(sizes.size());
  for (int round = 0; round < flags.rounds; ++round) {
    for (size_t i = 0; i < sizes.size(); ++i) {
      nn::BucketSizes changed = usual;
      changed.other_mb = sizes[i];
      training.ddp().set_bucket_sizes(changed);
      seconds[i].push_back(seconds_of(training, communicator));
    }
  }
  if (communicator.rank() != 0) return 0;
  nlohmann::ordered_json table;
  double best = median(seconds[0]);
  for (size_t i = 0; i + 1 < sizes.size(); ++i) {
    const double time = median(seconds[i]);
    table[nlohmann::json(sizes[i]).dump()] = 1e3 * time;
    best = std::min(best, time);
  }
  std::printf("%s\n", nlohmann::ordered_json{{"benchmark", "sweep"},
                                             {"ranks", communicator.size()},
                                             {"step_ms_by_bucket_mb", table},
                                             {"usual_over_best", median(seconds[0]) / best},
                                             {"tuned_mb", tuned_mb},
                                             {"tuned_step_ms", 1e3 * median(seconds.back())},
                                             {"best_over_tuned", best / median(seconds.back())}}
                          .dump()
                          .c_str());
  return 0;
}

}  // namespace lockstep::benchmark
