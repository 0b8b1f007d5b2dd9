#include "lockstep/launcher/data/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <vector>

#include "lockstep/runtime/error.h"

namespace lockstep::data {
namespace {

std::vector<int64_t> epoch_order(int64_t count, uint64_t seed, int64_t epoch) {
  const Permutation permutation(count, seed, epoch);
  std::vector<int64_t> order(count);
  for (int64_t i = 0; i < count; ++i) order[i] = permutation(i);
  return order;
}

TEST(Permutation, TakesEveryElementOnce) {
  for (const int64_t count : {1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000, 4097, 100000}) {
    std::vector<int64_t> order = epoch_order(count, 7, 3);
    std::sort(order.begin(), order.end());
    for (int64_t i = 0; i < count; ++i) ASSERT_EQ(order[i], i) << count;
  }
}

TEST(Permutation, DiffersByEpochAndSeed) {
  const auto order = epoch_order(1000, 1, 0);
  EXPECT_EQ(order, epoch_order(1000, 1, 0));
  EXPECT_NE(order, epoch_order(1000, 1, 1));
  EXPECT_NE(order, epoch_order(1000, 2, 0));
}

// The mean and the spread of a table's cells must be those of a uniform draw: five standard
// deviations of the chi-squared statistic.
void expect_uniform(const std::vector<int64_t>& cells) {
  const double expected =
      static_cast<double>(std::accumulate(cells.begin(), cells.end(), int64_t{0})) / cells.size();
  double statistic = 0;
  for (const int64_t cell : cells) statistic += (cell - expected) * (cell - expected) / expected;
  const double freedom = static_cast<double>(cells.size()) - 1;
  EXPECT_NEAR(statistic, freedom, 5 * std::sqrt(2 * freedom)) << cells.size() << " cells";
}

TEST(Permutation, IsUniformOverEpochs) {
  constexpr int kEpochs = 4000;
  for (const int64_t count : {2, 3, 5, 10, 37}) {
    std::vector<int64_t> first(count);
    std::vector<int64_t> distance(count);  // between two neighbours; never 0
    for (int epoch = 0; epoch < kEpochs; ++epoch) {
      const Permutation permutation(count, 11, epoch);
      ++first[permutation(0)];
      ++distance[(permutation(1) - permutation(0) + count) % count];
    }
    expect_uniform(first);
    EXPECT_EQ(distance[0], 0);
    distance.erase(distance.begin());
    if (count > 2) expect_uniform(distance);
  }
}

TEST(Permutation, HasAllOrdersOfAFew) {
  std::set<std::vector<int64_t>> orders;
  for (int epoch = 0; epoch < 1000; ++epoch) orders.insert(epoch_order(4, 5, epoch));
  EXPECT_EQ(orders.size(), 24u);
}

TEST(Permutation, NeighboursDoNotStayTogether) {
  constexpr int64_t kCount = 100000;
  const auto order = epoch_order(kCount, 0, 0);
  double sum = 0;
  for (int64_t i = 1; i < kCount; ++i) sum += std::abs(order[i] - order[i - 1]);
  EXPECT_NEAR(sum / (kCount - 1) / kCount, 1.0 / 3, 0.01);  // of two uniform draws
}

TEST(Permutation, WorksWithoutMemoryForHugeSets) {
  const int64_t count = int64_t{1} << 62;
  const Permutation permutation(count, 1, 0);
  std::set<int64_t> seen;
  for (int64_t i = 0; i < 1000; ++i) seen.insert(permutation(count - 1 - i));
  EXPECT_EQ(seen.size(), 1000u);
  EXPECT_GE(*seen.begin(), 0);
  EXPECT_LT(*seen.rbegin(), count);
}

// Recorded from this implementation: a checkpoint's data position must mean the same samples in
// every later version.
TEST(Permutation, OrderIsTheRecordedOne) {
  EXPECT_EQ(epoch_order(10, 1234, 0), (std::vector<int64_t>{5, 9, 2, 4, 8, 7, 0, 3, 6, 1}));
  EXPECT_EQ(epoch_order(10, 1234, 1), (std::vector<int64_t>{5, 8, 4, 1, 3, 6, 9, 7, 2, 0}));
}

TEST(Permutation, RefusesWhatIsOutside) {
  EXPECT_THROW(Permutation(0, 1, 0), Error);
  EXPECT_THROW(Permutation(10, 1, 0)(10), Error);
  EXPECT_THROW(Permutation(10, 1, 0)(-1), Error);
}

TEST(Sampler, GoesThroughEpochAfterEpoch) {
  const Sampler sampler(10, 42);
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    const auto order = epoch_order(10, 42, epoch);
    for (int64_t i = 0; i < 10; ++i) {
      EXPECT_EQ(sampler.at(epoch * 10 + i), order[i]);
      EXPECT_EQ(sampler.epoch_of(epoch * 10 + i), epoch);
    }
  }
}

// The positions that the ranks take, in order, until the run ends.
std::vector<int64_t> positions(const BatchPlan& plan, int64_t world) {
  std::vector<int64_t> all;
  int64_t steps = 0;
  for (Share step = plan.step_at(0); step.count > 0; step = plan.step_at(step.first + step.count)) {
    EXPECT_EQ(plan.steps_from(0) - plan.steps_from(step.first), steps++);
    for (int64_t rank = 0; rank < world; ++rank) {
      const Share part = plan.part_of(step, rank);
      for (int64_t i = 0; i < part.count; ++i) all.push_back(part.first + i);
    }
  }
  EXPECT_EQ(plan.steps_from(0), steps);
  return all;
}

TEST(BatchPlan, EveryPositionOfARunIsTakenOnceAndInOrder) {
  for (const int64_t world : {1, 2, 3, 4, 8}) {
    for (const int64_t epoch : {0, 1, 5, 24, 30, 100}) {
      for (const int64_t run : {1, 23, 24, 25, 60, 100}) {
        const auto found = positions(BatchPlan({.global_batch = 24,
                                                .world_size = world,
                                                .epoch_samples = epoch,
                                                .run_samples = run}),
                                     world);
        ASSERT_EQ(static_cast<int64_t>(found.size()), run) << world << " " << epoch;
        for (int64_t i = 0; i < run; ++i) ASSERT_EQ(found[static_cast<size_t>(i)], i);
      }
    }
  }
}

TEST(BatchPlan, FullStepsAreSharedEvenly) {
  const BatchPlan plan({.global_batch = 24, .world_size = 3, .micro_batch = 2});
  const Share step = plan.step_at(48);
  EXPECT_EQ(step.count, 24);
  for (int64_t rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(plan.part_of(step, rank).count, 8);
    EXPECT_EQ(plan.part_of(step, rank).first, 48 + 8 * rank);
  }
}

TEST(BatchPlan, AStepEndsWithItsEpoch) {
  const BatchPlan plan(
      {.global_batch = 8, .world_size = 4, .epoch_samples = 18, .run_samples = 36});
  EXPECT_EQ(plan.steps_from(0), 6);
  const Share last = plan.step_at(16);
  EXPECT_EQ(last.count, 2);
  int64_t counts[4];
  for (int64_t rank = 0; rank < 4; ++rank) counts[rank] = plan.part_of(last, rank).count;
  EXPECT_THAT(counts, ::testing::ElementsAre(0, 1, 0, 1));
  EXPECT_EQ(plan.step_at(18).count, 8);
}

TEST(BatchPlan, MicroBatchesAreThoseOfTheLargestPart) {
  for (const int64_t micro : {1, 2, 4}) {
    const BatchPlan plan({.global_batch = 24, .world_size = 3, .micro_batch = micro});
    for (int64_t count = 0; count <= 24; ++count) {
      int64_t most = 0;
      for (int64_t rank = 0; rank < 3; ++rank) {
        most = std::max(most, plan.part_of({100, count}, rank).count);
      }
      EXPECT_EQ(plan.micro_batches_of({100, count}), (most + micro - 1) / micro) << count;
    }
  }
}

std::string problem_of(const BatchPlan::Options& options) {
  try {
    const BatchPlan plan(options);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

TEST(BatchPlan, RefusesWhatDoesNotDivide) {
  EXPECT_EQ(problem_of({.global_batch = 10, .world_size = 2, .micro_batch = 4}),
            "--global-batch 10 does not divide by 2 ranks x --micro-batch 4");
  EXPECT_EQ(problem_of({.global_batch = 10, .world_size = 4, .micro_batch = 1}),
            "--global-batch 10 does not divide by 4 ranks");
  EXPECT_EQ(problem_of({.global_batch = 2, .world_size = 4, .micro_batch = 1}),
            "--global-batch 2 is smaller than the 4 ranks: every rank needs a sample of each step");
  EXPECT_EQ(problem_of({.global_batch = 0, .world_size = 1, .micro_batch = 1}),
            "global batch, ranks and micro-batch must be positive, found 0, 1 and 1");
  EXPECT_THROW(BatchPlan({.global_batch = 4, .world_size = 2}).part_of({0, 4}, 2), Error);
}

}  // namespace
}  // namespace lockstep::data
