// What DistributedDataParallel adds to MPI's own all-reduce in its best form (pieces of 1 MiB),
// where all gradients are there already; and ranks of one host reducing through shared memory.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "benchmark/data_parallel/modes.h"
#include "lockstep/collectives/mpi/open.h"
#include "lockstep/collectives/reduce_cpu.h"

namespace lockstep::benchmark {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kParameters = 4;
constexpr int64_t kPiece = (1 << 20) / 4;  // f32 values

// Its gradients are the number of this rank plus one.
struct Flat : nn::Layer<Flat> {
  explicit Flat(int64_t elements) {
    for (int i = 0; i < kParameters; ++i)
      parts.emplace_back(Shape{elements}, nn::Initializer::zeros());
  }
  Tensor forward(double scale) {
    Tensor total;
    for (const nn::Parameter& part : parts) {
      const Tensor one = sum(part.tensor()) * scale;
      total = total ? total + one : one;
    }
    return total;
  }
  void visit(nn::Visitor& v) override { v("parts", parts); }

  std::vector<nn::Parameter> parts;
};

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

void all_reduce_in_pieces(mpi::Library& library, const Array& values, double factor) {
  float* data = values.data<float>();
  for (int64_t start = 0; start < values.elements(); start += kPiece) {
    const int64_t count = std::min(kPiece, values.elements() - start);
    const int code = library.all_reduce(0, data + start, static_cast<int>(count), DType::f32,
                                        mpi::Operation::sum);
    LOCKSTEP_CHECK(code == 0, "MPI: error ", code);
    if (factor != 1) scale(DType::f32, data + start, count, factor);
  }
}

class Overhead {
 public:
  Overhead(double bucket_mb, Communicator& communicator)
      : communicator_(communicator),
        model_(static_cast<int64_t>(bucket_mb * (1 << 20)) / 4),
        ddp_(model_, communicator, {.hook = [this](const nn::GradientBucket& bucket) {
               return raw_ ? Work() : nn::mean_of_bucket(bucket);
             }}) {}

  // MPI as it is; the sum, or the mean.
  double raw(bool mean) {
    raw_ = true;
    backward();
    const auto start = Clock::now();
    for (const nn::Parameter& part : model_.parts) {
      all_reduce_in_pieces(mpi::open_library(), part.leaf().gradient(),
                           mean ? 1.0 / communicator_.size() : 1);
    }
    const double time = milliseconds_since(start);
    ddp_.finish();
    if (mean) check();
    return time;
  }

  double data_parallel(bool shared_window) {
    raw_ = false;
    ::setenv("LOCKSTEP_SHARED_WINDOW", shared_window ? "on" : "off", 1);
    backward();
    const auto start = Clock::now();
    ddp_.finish();
    const double time = milliseconds_since(start);
    check();
    return time;
  }

  int64_t buckets() const { return ddp_.bucket_count(); }

 private:
  // Leaves the gradients where they are to be reduced.
  void backward() {
    for (const nn::Parameter& part : model_.parts) part.leaf().zero_grad();
    {
      const auto no_sync = ddp_.no_sync();
      model_.forward(communicator_.rank() + 1).backward();
    }
    communicator_.barrier().wait();
  }
  void check() const {
    const auto expected = static_cast<float>((communicator_.size() + 1) / 2.0);
    for (const nn::Parameter& part : model_.parts) {
      const float* values = part.leaf().gradient().data<float>();
      for (int64_t i = 0; i < part.elements(); ++i) {
        LOCKSTEP_CHECK(values[i] == expected, "gradient ", i, " is ", values[i], ", expected ",
                       expected);
      }
    }
  }

  Communicator& communicator_;
  bool raw_ = false;
  Flat model_;
  nn::DistributedDataParallel ddp_;
};

}  // namespace

int run_overhead(const DataParallelFlags& flags, Communicator& communicator) {
  LOCKSTEP_CHECK(communicator.backend() == "mpi", "overhead: run under mpirun -n 2");
  Overhead overhead(flags.bucket_mb, communicator);
  std::vector<double> sum, mean, ours, shared;
  for (int round = -2; round < flags.rounds; ++round) {
    const double times[] = {overhead.raw(false), overhead.data_parallel(false), overhead.raw(true),
                            overhead.data_parallel(true)};
    if (round < 0) continue;
    sum.push_back(times[0]);
    ours.push_back(times[1]);
    mean.push_back(times[2]);
    shared.push_back(times[3]);
  }
  if (communicator.rank() != 0) return 0;
  const double buckets = static_cast<double>(overhead.buckets());
  const double added = median(ours) - median(sum), to_mean = median(ours) - median(mean);
  std::printf("%s\n",
              nlohmann::ordered_json{{"benchmark", "overhead"},
                                     {"ranks", communicator.size()},
                                     {"bucket_mb", flags.bucket_mb},
                                     {"buckets", buckets},
                                     {"mpi_sum_ms", median(sum)},
                                     {"mpi_mean_ms", median(mean)},
                                     {"data_parallel_ms", median(ours)},
                                     {"added_to_sum", added / median(sum)},
                                     {"added_to_sum_us_per_bucket", 1e3 * added / buckets},
                                     {"added_to_mean", to_mean / median(mean)},
                                     {"added_to_mean_us_per_bucket", 1e3 * to_mean / buckets},
                                     {"shared_window_ms", median(shared)},
                                     {"shared_window_over_mpi_sum", median(shared) / median(sum)}}
                  .dump()
                  .c_str());
  return 0;
}

}  // namespace lockstep::benchmark
