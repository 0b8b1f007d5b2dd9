#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/nn/optim.h"
#include "lockstep/nn/parallel/data_parallel.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "support/nccl_ranks.h"
#include "unit/cuda/captured_training.h"

// Data parallelism of one rank on the simulated device, over a fake NCCL. Its buckets are memory of
// the host, which no real device could write to.
namespace lockstep::test {
namespace {

using lockstep::testing::FakeNccl;
using lockstep::testing::FakeNetwork;
using lockstep::testing::kPlenty;

struct Outcome {
  std::vector<double> losses;
  int64_t replays = 0, buckets = 0;
  std::vector<int> foreign_waits;  // in each step
};

struct Case {
  bool captures = true;
  nn::DataParallelOptions options = {};
  double weight = 1;
  int64_t passes = 1;  // of a step, all but the last under no_sync()
};

Outcome train(const Case& with) {
  FakeNetwork network;
  FakeNccl library(network, 0);
  MemoryStore memory;
  const auto store = memory.connect();
  const auto communicator =
      nccl::make_communicator(library, *store, {.rank = 0, .size = 1, .device = device()}, kPlenty);
  Net net;
  nn::DataParallelOptions options = with.options;
  options.placement.device = device();
  options.bucket_sizes = {1e-4, 3e-4, 1e-4};
  options.broadcast_buffers = false;
  nn::DistributedDataParallel ddp(net, *communicator, options);
  optim::AdamW optimizer(net.parameters(), {.learning_rate = 0.05});
  nn::CapturedPasses passes(net, backend_of(device()));
  if (!with.captures) passes.refuse("compared with");
  Outcome run;
  for (uint32_t step = 0; step < 10; ++step) {
    const int before = library.foreign_waits();
    optimizer.zero_grad();
    if (with.weight != 1) ddp.set_weight(with.weight);
    Array loss;
    for (int64_t pass = 0; pass < with.passes; ++pass) {
      std::optional<nn::DistributedDataParallel::NoSync> no_sync;
      if (pass + 1 < with.passes) no_sync.emplace(ddp);
      context().random = {.seed = 3, .step = step, .first_sample = static_cast<uint32_t>(8 * pass)};
      Tensor inputs;
      Array labels;
      const auto load = [&] {
        inputs = Tensor(values({8, 6}, DType::f32, -1, 1, 10 * step + static_cast<uint64_t>(pass)))
                     .to(device());
        labels = Array::from(std::vector<int64_t>{0, 1, 2, 3, 0, 1, 2, 3}, {8}, device());
      };
      loss = passes.run(pass > 0, 1, load, [&] { return cross_entropy(net(inputs), labels); });
    }
    run.losses.push_back(loss.item());
    ddp.finish({.samples = 8});
    optimizer.step();
    run.foreign_waits.push_back(library.foreign_waits() - before);
  }
  run.replays = passes.replays();
  run.buckets = ddp.bucket_count();
  return run;
}

TEST(SimulatedDataParallel, BucketsLeaveWithinAReplay) {
  for (const int64_t passes : {1, 3}) {
    const Outcome plain = train({.captures = false, .passes = passes}),
                  captured = train({.passes = passes});
    EXPECT_EQ(captured.losses, plain.losses);
    EXPECT_EQ(plain.replays, 0);
    EXPECT_GT(captured.replays, 4 * passes);
    EXPECT_GT(captured.buckets, 2);
    EXPECT_EQ(plain.foreign_waits, std::vector<int>(10, 0));
    EXPECT_EQ(captured.foreign_waits.front(), 0);
    EXPECT_EQ(captured.foreign_waits.back(), captured.buckets);
  }
}

// What is queued between a pass and a bucket's leaving comes behind the whole pass, and so does the
// bucket.
TEST(SimulatedDataParallel, BucketsThatAreChangedLeaveBehindAReplay) {
  nn::DataParallelOptions hooked;
  hooked.hook = [](const nn::GradientBucket& bucket) {
    kernels::scale_add(0.5, bucket.values, 0, bucket.values);
    return nn::mean_of_bucket(bucket);
  };
  for (const Case& with : {Case{.weight = 2}, Case{.options = hooked}}) {
    Case without = with;
    without.captures = false;
    const Outcome plain = train(without), captured = train(with);
    EXPECT_EQ(captured.losses, plain.losses);
    EXPECT_GT(captured.replays, 4);
    EXPECT_EQ(captured.foreign_waits, std::vector<int>(10, 0));
  }
}

}  // namespace
}  // namespace lockstep::test
