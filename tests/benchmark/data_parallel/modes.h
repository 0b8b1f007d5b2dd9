#pragma once

#include "benchmark/data_parallel/gpt_training.h"

namespace lockstep::benchmark {

struct DataParallelFlags {
  double bucket_mb = 25;
  int rounds = 20;
  std::string hook = "none";
  std::string shard = "none";
  bool no_prefetch = false;

  void add_to(flags::Command& command);
  nn::DataParallelOptions options() const;
};

// Each prints JSON lines from rank 0 and returns the exit code.
int run_overlap(const GptOptions&, const DataParallelFlags&, Communicator&);
// The sizes that `--bucket-mb auto` would try, each, and then what it chooses.
int run_sweep(const GptOptions&, const DataParallelFlags&, Communicator&);
// Trains with a communication hook: losses and bytes.
int run_train(const GptOptions&, const DataParallelFlags&, Communicator&);
// What DistributedDataParallel adds to MPI's own all-reduce, and shared memory beside both.
int run_overhead(const DataParallelFlags&, Communicator&);

}  // namespace lockstep::benchmark
