// Ranks are threads of this process: the same code as over MPI, under the sanitizers.

#include "lockstep/nn/parallel/data_parallel.h"

#include <gtest/gtest.h>

#include <mutex>

#include "lockstep/nn/optim.h"
#include "support/thread_ranks.h"
#include "unit/nn/data_parallel_testing.h"

namespace lockstep::nn {
namespace {

using namespace testing_data_parallel;
using testing::run_ranks;

// 20 steps with clipping and AdamW on this rank's share of each batch.
Values train(Communicator& communicator, int accumulation, BucketSizes sizes) {
  Net net;
  DistributedDataParallel ddp(
      net, communicator, {.bucket_sizes = sizes, .placement = {.dtype = DType::f64, .seed = 5}});
  optim::AdamW optimizer(optim::decay_matrices_only(net.parameters(), 0.1),
                         {.learning_rate = 1e-2});
  const int64_t share = kBatch / communicator.size(), micro = share / accumulation;
  for (int step = 0; step < 20; ++step) {
    optimizer.zero_grad();
    for (int i = 0; i < accumulation; ++i) {
      std::optional<DistributedDataParallel::NoSync> no_sync;
      if (i + 1 < accumulation) no_sync.emplace(ddp);
      const Tensor loss = loss_of(net, step, communicator.rank() * share + i * micro, micro);
      (loss * (1.0 / accumulation)).backward();
    }
    ddp.finish();
    const double norm = optim::gradient_norm(optimizer.parameters());
    optimizer.step(optim::clip_factor(norm, 0.5));
  }
  return values_of(net);
}

TEST(DataParallel, RanksAndAccumulationGiveTheSameTraining) {
  const auto alone = make_single_communicator();
  const Values expected = train(*alone, 1, {});
  const BucketSizes small{.first_mb = 0.0005, .other_mb = 0.001, .last_mb = 0.0005};
  for (int ranks : {1, 2, 3, 4}) {
    for (int accumulation : {1, 2}) {
      std::mutex mutex;
      run_ranks(ranks, [&](Communicator& communicator) {
        const Values found = train(communicator, accumulation, small);
        const std::lock_guard lock(mutex);
        SCOPED_TRACE(concat({ranks, " ranks, accumulation ", accumulation}));
        expect_close(found, expected, 1e-10);
      });
    }
  }
}

TEST(DataParallel, RanksStartFromRankZerosValues) {
  std::mutex mutex;
  std::vector<Values> all;
  run_ranks(2, [&](Communicator& communicator) {
    Net net;
    net.place({.dtype = DType::f64, .seed = 1 + static_cast<uint64_t>(communicator.rank())});
    DistributedDataParallel ddp(net, communicator);
    const std::lock_guard lock(mutex);
    all.push_back(values_of(net));
  });
  EXPECT_EQ(all[0], all[1]);
}

TEST(DataParallel, UnusedParametersHaveTheMeaningOfPyTorch) {
  run_ranks(2, [](Communicator& communicator) {
    Net net;
    DistributedDataParallel ddp(net, communicator, {.placement = {.dtype = DType::f64}});
    // Used nowhere: no gradient.
    loss_of(net, 0, 0, 4).backward();
    ddp.finish();
    EXPECT_FALSE(net.spare.weight.grad());
    EXPECT_TRUE(net.out.weight.grad());
    // Used on rank 0 only: the mean with zeros.
    for (const Parameter& parameter : net.parameters()) parameter.leaf().zero_grad();
    net.use_spare = communicator.rank() == 0;
    sum(net(Tensor(Array::full({2, 6}, 1, DType::f64)))).backward();
    ddp.finish();
    ASSERT_TRUE(net.spare.bias.grad());
    EXPECT_DOUBLE_EQ(net.spare.bias.grad().to_vector<double>()[0], 1);  // (2 + 0) / 2
    EXPECT_DOUBLE_EQ(net.out.bias.grad().to_vector<double>()[0], 2);
  });
}

// A parameter used in an earlier micro-batch only keeps what that gave it.
TEST(DataParallel, UsedInTheFirstMicroBatchOnly) {
  run_ranks(2, [](Communicator& communicator) {
    Net net;
    DistributedDataParallel ddp(net, communicator, {.placement = {.dtype = DType::f64}});
    const Tensor x{Array::full({2, 6}, 1, DType::f64)};
    {
      const auto no_sync = ddp.no_sync();
      net.use_spare = true;
      sum(net(x)).backward();
    }
    net.use_spare = false;
    sum(net(x)).backward();
    ddp.finish();
    EXPECT_DOUBLE_EQ(net.spare.bias.grad().to_vector<double>()[0], 2);
    EXPECT_DOUBLE_EQ(net.out.bias.grad().to_vector<double>()[0], 4);
  });
}

TEST(DataParallel, BucketsLeaveWhileBackwardRuns) {
  const auto communicator = make_single_communicator();
  Net net;
  DistributedDataParallel ddp(
      net, *communicator,
      {.bucket_sizes = {.first_mb = 1e-4, .other_mb = 1e-4, .last_mb = 1e-4},
       .placement = {.dtype = DType::f64}});
  EXPECT_GE(ddp.bucket_count(), 4);
  const uint64_t before = communicator->collectives_started();
  net.use_spare = true;
  loss_of(net, 0, 0, 4).backward();
  EXPECT_EQ(communicator->collectives_started() - before,
            static_cast<uint64_t>(ddp.bucket_count()));
  ddp.finish();
}

TEST(DataParallel, ReportsAreSummed) {
  run_ranks(3, [](Communicator& communicator) {
    Net net;
    DistributedDataParallel ddp(net, communicator);
    const StepReport total =
        ddp.finish({.loss_sum = 1.5, .samples = 2, .failed = communicator.rank() == 1 ? 1.0 : 0.0});
    EXPECT_DOUBLE_EQ(total.loss_sum, 4.5);
    EXPECT_DOUBLE_EQ(total.samples, 6);
    EXPECT_DOUBLE_EQ(total.failed, 1);
  });
}

TEST(DataParallel, OtherBucketSizesMoveNothing) {
  const auto communicator = make_single_communicator();
  Net net;
  DistributedDataParallel ddp(net, *communicator, {.placement = {.dtype = DType::f64}});
  const void* place = net.out.weight.tensor().value().data();
  EXPECT_EQ(ddp.bucket_count(), 1);
  ddp.set_bucket_sizes({.first_mb = 1e-4, .other_mb = 1e-4, .last_mb = 1e-4});
  EXPECT_GE(ddp.bucket_count(), 4);
  EXPECT_EQ(net.out.weight.tensor().value().data(), place);
}

// In the second step the buckets lie in the order in which rank 0's gradients became ready.
TEST(DataParallel, BucketsArePackedInTheOrderOfRankZero) {
  run_ranks(2, [](Communicator& communicator) {
    Net net;
    DistributedDataParallel ddp(net, communicator, {.placement = {.dtype = DType::f64}});
    net.use_spare = communicator.rank() == 0;  // rank 1 never sees it
    sum(net(Tensor(Array::full({2, 6}, 1, DType::f64)))).backward();
    ddp.finish();
    const auto address = [](const Parameter& parameter) {
      return static_cast<const double*>(parameter.tensor().value().data());
    };
    EXPECT_LT(address(net.out.weight), address(net.middle.weight));
    EXPECT_LT(address(net.spare.weight), address(net.middle.weight));
    EXPECT_LT(address(net.middle.weight), address(net.in.weight));
  });
}

// Samples that differ in number from rank to rank, down to none: the mean is over samples.
TEST(DataParallel, UnevenRanksWeighAsManySamplesAsTheyHave) {
  const auto alone = make_single_communicator();
  const auto gradients = [](Communicator& communicator, int64_t first, int64_t count) {
    Net net;
    DistributedDataParallel ddp(net, communicator, {.placement = {.dtype = DType::f64, .seed = 5}});
    ddp.set_weight(static_cast<double>(count));
    if (count > 0) loss_of(net, 0, first, count).backward();
    const StepReport total = ddp.finish({.samples = static_cast<double>(count)});
    EXPECT_EQ(total.samples, 12);
    std::vector<double> all;
    for (const Parameter& parameter : net.parameters()) {
      if (!parameter.grad()) continue;
      for (double value : parameter.grad().to_vector<double>()) all.push_back(value);
    }
    return all;
  };
  const std::vector<double> expected = gradients(*alone, 0, 12);
  run_ranks(3, [&](Communicator& communicator) {
    const int64_t firsts[] = {0, 7, 12}, counts[] = {7, 5, 0};
    const int rank = communicator.rank();
    const auto found = gradients(communicator, firsts[rank], counts[rank]);
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-13);
  });
}

// Each rank has its own data and runs out when it does; the sums are those of one rank with all of
// it.
TEST(DataParallel, RanksThatRunOutEarlyTakePartUntilAllAreDone) {
  const auto train = [](Communicator& communicator, const std::vector<int64_t>& samples) {
    Net net;
    DistributedDataParallel ddp(net, communicator, {.placement = {.dtype = DType::f64, .seed = 5}});
    optim::SGD optimizer(net.parameters(), {.learning_rate = 1e-2, .momentum = 0.9});
    size_t next = 0;
    for (int steps = 0;; ++steps) {
      std::vector<int64_t> batch;
      while (next < samples.size() && batch.size() < 2) {
        batch.push_back(samples[next++]);
      }
      const auto count = static_cast<double>(batch.size());
      optimizer.zero_grad();
      ddp.set_weight(count);
      Tensor loss;
      for (int64_t sample : batch) {
        const Tensor one = loss_of(net, 0, sample, 1);
        loss = loss ? loss + one : one;
      }
      if (loss) (loss / count).backward();
      if (ddp.finish({.samples = count}).samples == 0) {
        EXPECT_EQ(steps, 4);
        return values_of(net);
      }
      optimizer.step();
    }
  };
  // Rank 0 has seven samples, rank 1 four, rank 2 one; in turns of two.
  const std::vector<std::vector<int64_t>> of_ranks = {{0, 1, 2, 3, 4, 5, 6}, {7, 8, 9, 10}, {11}};
  std::mutex mutex;
  std::vector<Values> all;
  run_ranks(3, [&](Communicator& communicator) {
    const Values found = train(communicator, of_ranks[static_cast<size_t>(communicator.rank())]);
    const std::lock_guard lock(mutex);
    all.push_back(found);
  });
  Net alone;
  alone.place({.dtype = DType::f64, .seed = 5});
  optim::SGD optimizer(alone.parameters(), {.learning_rate = 1e-2, .momentum = 0.9});
  for (const std::vector<int64_t>& step :
       std::vector<std::vector<int64_t>>{{0, 1, 7, 8, 11}, {2, 3, 9, 10}, {4, 5}, {6}}) {
    optimizer.zero_grad();
    Tensor loss;
    for (int64_t sample : step) {
      const Tensor one = loss_of(alone, 0, sample, 1);
      loss = loss ? loss + one : one;
    }
    (loss / static_cast<double>(step.size())).backward();
    optimizer.step();
  }
  for (const Values& found : all) expect_close(found, values_of(alone), 1e-12);
}

}  // namespace
}  // namespace lockstep::nn
