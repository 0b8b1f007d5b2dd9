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
  std::vector<int> foreign_waits;  // in each step
  int64_t replays = 0, buckets = 0;
};

// A parameter that nobody uses.
struct Wide : nn::Layer<Wide> {
  Net net;
  nn::Linear unused{4, 4};

  Tensor forward(const Tensor& x, bool whole) {
    const Tensor hidden = net.dropout(gelu(net.norm(net.hidden(x))));
    return net.output(whole ? hidden : hidden.detach());
  }
  void visit(nn::Visitor& v) override {
    v("net", net);
    v("unused", unused);
  }
};

struct Case {
  bool captures = true;
  nn::DataParallelOptions options = {.bucket_sizes = {1e-4, 3e-4, 1e-4}};
  double weight = 1;
  int64_t passes = 1;     // of a step, all but the last under no_sync()
  bool all_send = false;  // from step 7 on none is under no_sync()
  bool detaches = false;  // in steps 7 to 13 only the output layer learns
};

Outcome train(const Case& with) {
  FakeNetwork network;
  FakeNccl library(network, 0);
  MemoryStore memory;
  const auto store = memory.connect();
  const auto communicator =
      nccl::make_communicator(library, *store, {.rank = 0, .size = 1, .device = device()}, kPlenty);
  Wide model;
  nn::DataParallelOptions options = with.options;
  options.placement.device = device();
  options.broadcast_buffers = false;
  nn::DistributedDataParallel ddp(model, *communicator, options);
  optim::AdamW optimizer(model.parameters(), {.learning_rate = 0.05});
  nn::CapturedPasses passes(model, backend_of(device()));
  if (!with.captures) passes.refuse("compared with");
  Outcome result;
  for (uint32_t step = 0; step < 20; ++step) {
    const int before = library.foreign_waits();
    const bool whole = !with.detaches || step < 7 || step > 13;
    optimizer.zero_grad();
    if (with.weight != 1) ddp.set_weight(with.weight);
    Array loss;
    for (int64_t pass = 0; pass < with.passes; ++pass) {
      std::optional<nn::DistributedDataParallel::NoSync> no_sync;
      const bool sends = pass + 1 == with.passes || (with.all_send && step >= 7);
      if (!sends) no_sync.emplace(ddp);
      context().random = {.seed = 3, .step = step, .first_sample = static_cast<uint32_t>(8 * pass)};
      Tensor inputs;
      Array labels;
      const auto load = [&] {
        const uint64_t seed = 10 * step + static_cast<uint64_t>(pass);
        inputs = Tensor(values({8, 6}, DType::f32, -1, 1, seed)).to(device());
        labels = Array::from(std::vector<int64_t>{0, 1, 2, 3, 0, 1, 2, 3}, {8}, device());
      };
      const int64_t kind = 2 * static_cast<int64_t>(whole) + static_cast<int64_t>(pass > 0);
      loss = passes.run(kind, 1, load, [&] { return cross_entropy(model(inputs, whole), labels); });
    }
    result.losses.push_back(loss.item());
    ddp.finish({.samples = 8});
    optimizer.step();
    result.foreign_waits.push_back(library.foreign_waits() - before);
  }
  result.replays = passes.replays();
  result.buckets = ddp.bucket_count();
  return result;
}

Outcome without_capturing(Case with) {
  with.captures = false;
  return train(with);
}

// All but the two that hold what is unused, which is cleared first.
TEST(SimulatedDataParallel, BucketsLeaveWithinAReplay) {
  for (const int64_t passes : {1, 3}) {
    const Case with{.passes = passes};
    const Outcome plain = without_capturing(with), captured = train(with);
    EXPECT_EQ(captured.losses, plain.losses);
    EXPECT_EQ(plain.replays, 0);
    EXPECT_GT(captured.replays, 14 * passes);
    EXPECT_GT(captured.buckets, 3);
    EXPECT_EQ(plain.foreign_waits, std::vector<int>(20, 0));
    EXPECT_EQ(captured.foreign_waits.front(), 0);
    EXPECT_EQ(captured.foreign_waits.back(), captured.buckets - 2);
  }
}

// A bucket that has left on account of what was used last time has the gradients that come later.
TEST(SimulatedDataParallel, BucketsThatLeaveEarlyAreComplete) {
  for (const bool small : {true, false}) {
    Case with{.detaches = true};
    if (!small) with.options.bucket_sizes = {100, 100, 100};
    const Outcome plain = without_capturing(with), captured = train(with);
    EXPECT_EQ(captured.losses, plain.losses);
    EXPECT_GT(captured.replays, 10);
  }
}

TEST(SimulatedDataParallel, BucketsOnTheirWayAreNotWrittenTo) {
  const Case with{.passes = 2, .all_send = true};
  const Outcome plain = without_capturing(with), captured = train(with);
  EXPECT_EQ(captured.losses, plain.losses);
  EXPECT_GT(captured.replays, 15);
}

TEST(SimulatedDataParallel, BucketsThatAreChangedLeaveBehindAReplay) {
  nn::DataParallelOptions hooked = Case().options;
  hooked.hook = [](const nn::GradientBucket& bucket) {
    kernels::scale_add(0.5, bucket.values, 0, bucket.values);
    return nn::mean_of_bucket(bucket);
  };
  for (const Case& with : {Case{.weight = 2}, Case{.options = hooked}}) {
    const Outcome plain = without_capturing(with), captured = train(with);
    EXPECT_EQ(captured.losses, plain.losses);
    EXPECT_GT(captured.replays, 14);
    EXPECT_EQ(captured.foreign_waits, std::vector<int>(20, 0));
  }
}

}  // namespace
}  // namespace lockstep::test
