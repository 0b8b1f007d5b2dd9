// How much of the communication of a training step hides behind its backward pass: the same steps
// without communication, with all of it after backward, and as DistributedDataParallel does it, in
// turns in one run.
#include <chrono>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>

#include "benchmark/data_parallel/modes.h"

namespace lockstep::benchmark {
namespace {

using Clock = std::chrono::steady_clock;
enum Mode { none, serial, overlapped, kModes };

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Measured {
  std::vector<double> seconds[kModes];
  std::vector<double> exposed[kModes];    // as finish() reports
  std::vector<double> processor[kModes];  // time of all threads
  std::vector<double> last_bucket;        // alone, after backward
  int64_t buckets = 0;
};

Measured measure(GptTraining& training, Communicator& communicator, Mode& mode,
                 std::vector<nn::GradientBucket>& held, int rounds) {
  Measured measured;
  for (int round = -2; round < rounds; ++round) {  // two to warm up
    for (const Mode next : {none, serial, overlapped}) {
      mode = next;
      held.clear();
      double last = 0;
      communicator.barrier().wait();
      const Clock::time_point start = Clock::now();
      const std::clock_t processor = std::clock();
      training.step([&] {
        for (const nn::GradientBucket& bucket : held) {
          const Clock::time_point begun = Clock::now();
          nn::mean_of_bucket(bucket).wait();
          last = seconds_since(begun);
        }
      });
      if (round < 0) continue;
      measured.seconds[mode].push_back(seconds_since(start));
      measured.processor[mode].push_back(static_cast<double>(std::clock() - processor) /
                                         CLOCKS_PER_SEC);
      measured.exposed[mode].push_back(
          std::chrono::duration<double>(training.ddp().exposed_communication()).count());
      if (mode == serial) measured.last_bucket.push_back(last);
    }
  }
  measured.buckets = training.ddp().bucket_count();
  return measured;
}

}  // namespace

int run_overlap(const GptOptions& options, const DataParallelFlags& flags,
                Communicator& communicator) {
  Mode mode = none;
  std::vector<nn::GradientBucket> held;
  nn::DataParallelOptions data_parallel = flags.options();
  data_parallel.hook = [&](const nn::GradientBucket& bucket) {
    if (mode == overlapped) return nn::mean_of_bucket(bucket);
    if (mode == serial) held.push_back(bucket);
    return Work();
  };
  GptTraining training(options, communicator, data_parallel);
  const Measured measured = measure(training, communicator, mode, held, flags.rounds);
  if (communicator.rank() != 0) return 0;
  double seconds[kModes], exposed[kModes], processor[kModes];
  for (int i = 0; i < kModes; ++i) {
    seconds[i] = median(measured.seconds[i]);
    exposed[i] = median(measured.exposed[i]);
    processor[i] = median(measured.processor[i]);
  }
  const double communication = seconds[serial] - seconds[none];
  const double shown = seconds[overlapped] - seconds[none];
  std::printf(
      "%s\n",
      nlohmann::ordered_json{{"benchmark", "overlap"},
                             {"ranks", communicator.size()},
                             {"bucket_mb", flags.bucket_mb},
                             {"buckets", measured.buckets},
                             {"step_ms_without_communication", 1e3 * seconds[none]},
                             {"step_ms_serial", 1e3 * seconds[serial]},
                             {"step_ms_overlapped", 1e3 * seconds[overlapped]},
                             {"communication_ms", 1e3 * communication},
                             {"exposed_ms", 1e3 * shown},
                             {"hidden", 1 - shown / communication},
                             {"processor_ms", 1e3 * (processor[overlapped] - processor[none])},
                             {"processor_ms_serial", 1e3 * (processor[serial] - processor[none])},
                             {"last_bucket_ms", 1e3 * median(measured.last_bucket)},
                             {"reported_exposed_ms", 1e3 * exposed[overlapped]},
                             {"reported_without_communication_ms", 1e3 * exposed[none]}}
          .dump()
          .c_str());
  return 0;
}

}  // namespace lockstep::benchmark
