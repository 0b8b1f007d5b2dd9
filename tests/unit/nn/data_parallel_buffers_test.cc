// Buffers under data parallelism. Ranks are threads of this process.
#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "lockstep/nn/layers.h"
#include "lockstep/nn/parallel/data_parallel.h"
#include "support/gradient_check.h"
#include "support/thread_ranks.h"

namespace lockstep::nn {
namespace {

using testing::random_array;
using testing::run_ranks;

// The running means after a step of two micro-batches.
std::vector<double> means_after(Communicator& communicator, bool broadcast) {
  BatchNorm1d norm(4);
  DistributedDataParallel ddp(norm, communicator,
                              {.placement = {.dtype = DType::f64}, .broadcast_buffers = broadcast});
  const int rank = communicator.rank();
  const Tensor x(random_array({3, 4}, 1 + static_cast<uint64_t>(rank)));
  {
    const auto no_sync = ddp.no_sync();
    sum(norm(x)).backward();
  }
  if (rank == 1) norm(x);  // its counter is ahead
  const std::vector<double> own = norm.running_mean.array().to_vector<double>();
  EXPECT_NE(own, std::vector<double>(4, 0.0));
  sum(norm(x)).backward();
  ddp.finish();
  EXPECT_EQ(norm.num_batches_tracked.array().item(), 2 + (broadcast ? 0 : rank));
  return norm.running_mean.array().to_vector<double>();
}

TEST(DataParallelBuffers, AreRankZerosAfterAStep) {
  for (const bool broadcast : {true, false}) {
    std::mutex mutex;
    std::map<int, std::vector<double>> means;
    run_ranks(2, [&](Communicator& communicator) {
      const std::vector<double> mine = means_after(communicator, broadcast);
      const std::lock_guard lock(mutex);
      means[communicator.rank()] = mine;
    });
    const auto alone = make_single_communicator();
    EXPECT_EQ(means[0], means_after(*alone, false));  // its own
    EXPECT_EQ(means[0] == means[1], broadcast);
  }
}

TEST(DataParallelBuffers, TravelInOneCollectiveWhereThereAreAny) {
  const auto collectives_of_a_step = [](Module& module, bool broadcast) {
    const auto communicator = make_single_communicator();
    DistributedDataParallel ddp(module, *communicator, {.broadcast_buffers = broadcast});
    const uint64_t before = communicator->collectives_started();
    ddp.finish();
    return communicator->collectives_started() - before;
  };
  BatchNorm1d sent(2), kept(2);
  Linear without(2, 2);
  const uint64_t plain = collectives_of_a_step(without, true);
  EXPECT_EQ(collectives_of_a_step(kept, false), plain);
  EXPECT_EQ(collectives_of_a_step(sent, true), plain + 1);
}

// What was made elsewhere since is brought along.
TEST(DataParallelBuffers, MayBeMoved) {
  const auto communicator = make_single_communicator();
  BatchNorm1d norm(3);
  DistributedDataParallel ddp(norm, *communicator);
  kernels::fill(norm.running_mean.array(), 7);
  ddp.finish();
  norm.running_mean.place(DType::f64, {});
  const void* before = norm.running_mean.array().data();
  ddp.finish();
  EXPECT_NE(norm.running_mean.array().data(), before);
  EXPECT_EQ(norm.running_mean.array().dtype(), DType::f64);
  EXPECT_EQ(norm.running_mean.array().to_vector<double>(), std::vector<double>(3, 7));
  EXPECT_EQ(norm.running_var.array().to_vector<double>(), std::vector<double>(3, 1));
  const void* after = norm.running_mean.array().data();
  ddp.finish();
  EXPECT_EQ(norm.running_mean.array().data(), after);
}

// Side by side as they lie: what a graph has saved of one is refused only where that one changed.
TEST(DataParallelBuffers, ChangeApart) {
  const auto communicator = make_single_communicator();
  BatchNorm1d norm(3);
  const DistributedDataParallel ddp(norm, *communicator);
  Tensor x(Array::full({3}, 2, DType::f32));
  x.requires_grad_();
  for (const bool own : {false, true}) {
    const Tensor y = sum(x * Tensor(norm.running_mean.array()));
    kernels::fill((own ? norm.running_mean : norm.running_var).array(), 5);
    if (own) {
      EXPECT_THROW(y.backward(), Error);
    } else {
      EXPECT_NO_THROW(y.backward());
    }
  }
}

}  // namespace
}  // namespace lockstep::nn
