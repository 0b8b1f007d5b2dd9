#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/launcher/data/sampler.h"
#include "lockstep/nn/parallel/data_parallel.h"
#include "lockstep/runtime/dtype.h"

namespace lockstep::flags {
class Command;
}

namespace lockstep::train {

// The trainer's flags, as every training program has them. Zero or empty means "not given" where
// no default is named.
struct TrainOptions {
  int64_t steps = 0;
  double epochs = 0;
  int64_t global_batch = 32;
  int64_t micro_batch = 0;  // 0: a rank's whole share at once
  double learning_rate = 1e-3;
  std::string schedule = "cosine";
  int64_t warmup_steps = 0;
  std::optional<double> minimum_learning_rate;  // learning_rate / 10
  std::string optimizer = "adamw";
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double momentum = 0.9;
  double weight_decay = 0.1;
  double gradient_clip = 1.0;  // 0: none
  std::string precision = "f32";
  std::string device = "auto";
  int threads = 0;  // 0: this machine's cores, shared among its ranks
  std::string memory_limit;
  std::string memory_reserve;
  std::optional<double> bucket_mb = 0;  // 0: nn::BucketSizes' own; none: tried out
  std::string reduce_dtype = "f32";
  std::string shard = "none";
  std::string recompute = "none";
  std::string cuda_graph = "auto";
  int64_t seed = 0;
  int64_t validation_every = 0;
  std::chrono::milliseconds timeout = std::chrono::minutes(10);
  std::filesystem::path run_dir;
  std::string checkpoint_every;  // steps, or a duration
  bool checkpoint_async = false;
  int keep = 3;
  std::string resume = "auto";
  std::filesystem::path metrics;
  std::filesystem::path trace;
  bool quiet = false;

  void add_to(flags::Command& command);

  // How DistributedDataParallel is to reduce gradients, and where it places the module.
  nn::DataParallelOptions data_parallel() const;
  // Of parameters and gradients; and what autocast computes in, where it is on.
  DType dtype() const { return precision == "f64" ? DType::f64 : DType::f32; }
  std::optional<DType> autocast_dtype() const;
  nn::ShardLevel shard_level() const;
  // In bytes; 0: none, or none that check() allows.
  int64_t memory_limit_bytes() const;
  int64_t memory_reserve_bytes() const;
  // Steps between checkpoints, or 0; and the same in time.
  int64_t checkpoint_every_steps() const;
  std::chrono::milliseconds checkpoint_every_time() const;

  // How a run over epochs of `samples` is cut; where the data is endless, a step may cross the end
  // of an epoch. Throws UsageError where the global batch does not divide, or --epochs has no
  // sample.
  data::BatchPlan batch_plan(int world_size, int64_t samples, bool endless) const;
  // Throws UsageError where the values exclude each other.
  void check() const;

  // What must be equal on all ranks, and what config.json holds: a JSON object.
  std::string to_json() const;
};

// The rate of the step with index `step`, from 0, of `steps` in all: rises linearly over
// `warmup_steps`, then stays, falls linearly, or as half a cosine, to the minimum.
double learning_rate_at(const TrainOptions& options, int64_t step, int64_t steps);

}  // namespace lockstep::train
