// Benchmarks of data parallelism; run it alone, under mpirun, or under cluster/simulate.
#include <cstdio>

#include "benchmark/data_parallel/modes.h"
#include "lockstep/collectives/world.h"

namespace lockstep::benchmark {

void DataParallelFlags::add_to(flags::Command& command) {
  command.group("Data parallelism");
  command.add({.name = "--bucket-mb", .help = "size of a bucket", .value = "X", .minimum = 0.001},
              bucket_mb);
  command.add({.name = "--rounds", .help = "steps of each kind", .value = "N", .minimum = 1},
              rounds);
  command.add(
      {.name = "--hook",
       .help = "of communication, for train",
       .choices = {"none", "bf16", "fp16", "powersgd-1", "powersgd-2", "powersgd-4", "top-k"}},
      hook);
  command.add({.name = "--shard",
               .help = "what ranks share out, for train",
               .choices = {"none", "optimizer", "gradients", "parameters"}},
              shard);
  command.add({.name = "--no-prefetch", .help = "gathers parameters when they are looked at"},
              no_prefetch);
}

nn::DataParallelOptions DataParallelFlags::options() const {
  nn::DataParallelOptions options{.bucket_sizes = {.other_mb = bucket_mb}};
  if (hook == "bf16") options.hook = nn::compress_to(DType::bf16);
  if (hook == "fp16") options.hook = nn::compress_to(DType::f16);
  if (hook.starts_with("powersgd")) options.hook = nn::power_sgd({.rank = hook.back() - '0'});
  if (hook == "top-k") options.hook = nn::top_k();
  if (shard == "optimizer") options.shard = nn::ShardLevel::optimizer;
  if (shard == "gradients") options.shard = nn::ShardLevel::gradients;
  if (shard == "parameters") options.shard = nn::ShardLevel::parameters;
  options.prefetch = !no_prefetch;
  return options;
}

int run(int argc, char** argv) {
  flags::Command command("data_parallel_benchmark", "Measures data-parallel training.");
  GptOptions model;
  DataParallelFlags flags;
  const auto add = [&](const char* name, const char* summary, bool with_model) -> flags::Command& {
    flags::Command& one = command.command(name, summary);
    flags.add_to(one);
    if (with_model) model.add_to(one);
    return one;
  };
  const auto& overlap = add("overlap", "communication that hides behind backward", true);
  const auto& sweep = add("sweep", "bucket sizes, and which one the tuner takes", true);
  const auto& train =
      add("train", "losses, step time and memory with a communication hook or sharding", true);
  add("overhead", "what is added to MPI's all-reduce; shared memory", false);
  if (const auto code = command.parse_or_print(argc, argv)) return *code;
  const auto communicator = make_communicator(World::from_env());
  if (overlap.chosen()) return run_overlap(model, flags, *communicator);
  if (sweep.chosen()) return run_sweep(model, flags, *communicator);
  if (train.chosen()) return run_train(model, flags, *communicator);
  return run_overhead(flags, *communicator);
}

}  // namespace lockstep::benchmark

int main(int argc, char** argv) {
  try {
    return lockstep::benchmark::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "data_parallel_benchmark: %s\n", error.what());
    std::_Exit(1);  // other ranks may wait for ever
  }
}
