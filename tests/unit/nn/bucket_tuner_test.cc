#include "lockstep/nn/parallel/bucket_tuner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <mutex>

#include "lockstep/nn/layers.h"
#include "lockstep/nn/parallel/data_parallel.h"
#include "support/thread_ranks.h"

namespace lockstep::nn {
namespace {

// The size chosen where a step takes time(size, number of the step).
double chosen(double total_mb, const std::function<double(double mb, int step)>& time) {
  BucketTuner tuner(total_mb, 25);
  for (int step = 0; !tuner.done(); ++step) tuner.add(time(tuner.size_mb(), step));
  return tuner.size_mb();
}

TEST(BucketTuner, TriesPowersOfTwoTheTotalAndTheUsualSize) {
  EXPECT_THAT(BucketTuner(41.5, 25).sizes(), ::testing::ElementsAre(25, 1, 2, 4, 8, 16, 32, 41.5));
  EXPECT_THAT(BucketTuner(3, 25).sizes(), ::testing::ElementsAre(25, 1, 2));
  EXPECT_THAT(BucketTuner(3, 2).sizes(), ::testing::ElementsAre(2, 1, 3));
}

TEST(BucketTuner, KeepsTheSizeWithTheShortestSteps) {
  for (double best : {1.0, 4.0, 16.0}) {
    EXPECT_EQ(chosen(41, [&](double mb, int) { return 1 + std::abs(std::log2(mb / best)); }), best);
  }
}

TEST(BucketTuner, LeavesTheUsualSizeWhereLittleIsGained) {
  EXPECT_EQ(chosen(41, [](double mb, int) { return mb == 4 ? 0.99 : 1; }), 25);
}

TEST(BucketTuner, IsNotFooledByASlowStepNorByDrift) {
  const auto time = [](double mb, int step) {
    const double outlier = step == 9 ? 10 : 0, drift = 0.05 * step;
    return (mb == 8 ? 0.6 : 1) + drift + outlier;
  };
  EXPECT_EQ(chosen(41, time), 8);
}

TEST(BucketTuner, RanksTuneAlikeAndTrainOn) {
  std::mutex mutex;
  std::vector<double> sizes;
  testing::run_ranks(3, [&](Communicator& communicator) {
    Linear wide{1024, 1024};
    DistributedDataParallel ddp(wide, communicator, {.tune_bucket_sizes = true});
    const Tensor x(Array::full({2, 1024}, 1.0 + communicator.rank(), DType::f32));
    int steps = 0;
    do {
      for (const Parameter& parameter : wide.parameters()) parameter.leaf().zero_grad();
      sum(wide(x)).backward();
      ddp.finish();
      EXPECT_EQ(wide.weight.grad().to_vector<float>()[5], 4);  // 2 · (1 + 2 + 3) / 3
    } while (++steps < 3 || ddp.tuning());
    EXPECT_EQ(steps, 1 + 4 * 4);  // packing, then four sizes four times
    const std::lock_guard lock(mutex);
    sizes.push_back(ddp.bucket_mb());
  });
  EXPECT_THAT(sizes, ::testing::Each(sizes[0]));
}

}  // namespace
}  // namespace lockstep::nn
