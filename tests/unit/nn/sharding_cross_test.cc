// One training, however it is shared out: the cross of sharding, ranks and what makes models
// awkward.
#include <gtest/gtest.h>

#include <mutex>

#include "lockstep/nn/blocks.h"
#include "lockstep/nn/optim.h"
#include "support/thread_ranks.h"
#include "unit/nn/sharding_testing.h"

namespace lockstep::nn {
namespace {

using namespace testing_sharding;
using testing::run_ranks;
using testing_data_parallel::expect_close;
using testing_data_parallel::Values;

struct Case {
  int accumulation = 1;
  double clip = 0;
  bool tied = false, unused = false, frozen = false, recompute = false;
};

std::string name_of(const Case& c) {
  return concat({"accumulation ", c.accumulation, c.clip > 0 ? ", clipped" : "",
                 c.tied ? ", tied" : "", c.unused ? ", unused" : "", c.frozen ? ", frozen" : "",
                 c.recompute ? ", recomputed" : ""});
}

void one_step(Blocks& net, DistributedDataParallel& ddp, optim::Optimizer& optimizer, int step,
              const Communicator& communicator, const Case& c) {
  const int64_t share = kBatch / communicator.size(), micro = share / c.accumulation;
  // Used on no rank, on all, and frozen for a while.
  net.use_spare = !c.unused || step % 3 == 1;
  if (c.frozen) net.requires_grad(step >= 4 && step < 12, "h.1");
  optimizer.zero_grad();
  for (int i = 0; i < c.accumulation; ++i) {
    const bool last = i + 1 == c.accumulation;
    std::optional<DistributedDataParallel::NoSync> no_sync;
    if (!last && !ddp.reduces_each_micro_batch()) no_sync.emplace(ddp);
    const Tensor loss = loss_of(net, step, communicator.rank() * share + i * micro, micro);
    (loss * (1.0 / c.accumulation)).backward();
    if (!last && ddp.reduces_each_micro_batch()) ddp.reduce();
  }
  ddp.finish();
  const double norm = optim::gradient_norm(optimizer.parameters());
  optimizer.step(optim::clip_factor(norm, c.clip));
}

Values train(Communicator& communicator, ShardLevel level, const Case& c, BucketSizes sizes) {
  Blocks net;
  net.tied = c.tied;
  if (c.frozen) net.requires_grad(false, "h.1");
  if (c.recompute) recompute_blocks(net);
  DistributedDataParallel ddp(
      net, communicator,
      {.bucket_sizes = sizes, .placement = {.dtype = DType::f64, .seed = 5}, .shard = level});
  optim::AdamW optimizer(optim::decay_matrices_only(net.parameters(), 0.1),
                         {.learning_rate = 1e-2});
  for (int step = 0; step < 20; ++step) one_step(net, ddp, optimizer, step, communicator, c);
  return testing_data_parallel::values_of(net);
}

// Sanitizers see every path at one number of ranks.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kRanks[] = {3};
#else
constexpr int kRanks[] = {1, 2, 3, 4, 8};
#endif

// Takes the case's bits: 16 kinds of training.
class ShardingCross : public ::testing::TestWithParam<int> {};

TEST_P(ShardingCross, EveryLevelAtEverySizeIsTheSameTraining) {
  const int bits = GetParam();
  Case c{.accumulation = (bits & 1) != 0 ? 2 : 1,
         .clip = (bits & 2) != 0 ? 0.3 : 0,
         .tied = (bits & 4) != 0,
         .unused = (bits & 8) != 0,
         .frozen = (bits & 16) != 0,
         .recompute = (bits & 6) == 4};
  const auto alone = make_single_communicator();
  Case whole = c;
  whole.accumulation = 1;
  whole.recompute = false;
  const Values expected = train(*alone, ShardLevel::none, whole, {});
  for (int ranks : kRanks) {
    for (ShardLevel level : kLevels) {
      std::mutex mutex;
      run_ranks(ranks, [&](Communicator& communicator) {
        const Values found = train(communicator, level, c, kSmall);
        const std::lock_guard lock(mutex);
        SCOPED_TRACE(concat({ranks, " ranks, level ", static_cast<int>(level), ", ", name_of(c)}));
        expect_close(found, expected, 1e-10);
      });
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, ShardingCross, ::testing::Range(0, 32));

}  // namespace
}  // namespace lockstep::nn
