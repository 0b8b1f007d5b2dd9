// What goes wrong between ranks that talk through NCCL.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>

#include "lockstep/collectives/flight_recorder.h"
#include "lockstep/collectives/watch/watch.h"
#include "support/nccl_ranks.h"

namespace lockstep::testing {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

void expect_no_progress(FakeNetwork& network, const std::function<void(const Rank&)>& body) {
  const auto start = std::chrono::steady_clock::now();
  const auto ends = run_nccl_ranks(network, {.size = 3, .device = kGpu}, [&](const Rank& rank) {
    rank.communicator.set_timeout(kDeadline);
    body(rank);
  });
  EXPECT_THAT(ends, Each(HasSubstr("no progress for 300 ms in all_reduce #1")));
  EXPECT_THAT(ends[0], AllOf(HasSubstr("all_reduce #1 \"gradients\", bucket 3, on rank 0 of 3"),
                             HasSubstr("a rank is late or gone, or made another call")));
  EXPECT_LT(std::chrono::steady_clock::now() - start, 20 * kDeadline);
  for (int rank = 0; rank < 3; ++rank) EXPECT_EQ(network.aborts(rank), 1) << "rank " << rank;
}

TEST(NcclFaults, ALateRankFailsAllWithinTheDeadline) {
  for (const bool connects_late : {false, true}) {
    FakeNetwork network(connects_late);
    expect_no_progress(network, [](const Rank& rank) {
      if (rank.communicator.rank() == 1) sleep(3 * kDeadline);
      const Array values = on_gpu(Array::zeros({4}, DType::f32));
      rank.communicator.all_reduce(values, ReduceOp::sum, {.what = "gradients", .bucket = 3})
          .wait();
      rank.communicator.barrier().wait();
    });
  }
}

TEST(NcclFaults, RanksThatCallDifferentCollectivesFail) {
  FakeNetwork network;
  expect_no_progress(network, [](const Rank& rank) {
    const int64_t elements = rank.communicator.rank() == 1 ? 5 : 4;
    rank.communicator
        .all_reduce(Array::zeros({elements}, DType::f32), ReduceOp::sum,
                    {.what = "gradients", .bucket = 3})
        .wait();
  });
}

TEST(NcclFaults, TheWatchNamesTheLateRank) {
  MemoryStore memory;
  const auto ends = run_nccl_ranks({.size = 3, .device = kGpu}, [&](const Rank& rank) {
    Communicator& communicator = rank.communicator;
    communicator.set_timeout(kDeadline);
    Watch watch(communicator, [&] { return memory.connect(); }, {.beat_every = milliseconds(50)});
    communicator.barrier().wait();
    if (communicator.rank() == 1) {
      while (!watch.verdict()) sleep(milliseconds(10));
    }
    // Of a device's arrays nobody need wait.
    const Work work = communicator.all_reduce(on_gpu(Array::zeros({4}, DType::f32)), ReduceOp::sum);
    while (!work.done()) sleep(milliseconds(10));
    work.wait();
  });
  EXPECT_THAT(ends,
              Each(AllOf(HasSubstr("rank 1 is in step 0"), HasSubstr("It answers, but is late"))));
}

// Its kernels stand still while its host has gone on to the step's end.
TEST(NcclFaults, TheWatchNamesTheRankWhoseDeviceHangs) {
  FakeNetwork network;
  MemoryStore memory;
  std::promise<void> known;  // that it hangs
  std::vector<std::string> ends(3);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 3; ++rank) {
    threads.emplace_back([&, rank] {
      FakeNccl library(network, rank);
      FakeStream compute;
      const auto communicator = nccl::make_communicator(
          library, *memory.connect(),
          {.rank = rank, .size = 3, .device = kGpu, .compute = &compute}, kPlenty);
      communicator->set_timeout(kDeadline);
      Watch watch(*communicator, [&] { return memory.connect(); },
                  {.beat_every = milliseconds(50)});
      communicator->barrier().wait();
      if (rank == 1) {
        compute.push([&] { known.get_future().wait(); });
      }
      try {
        const Array values = on_gpu(Array::zeros({4}, DType::f32));
        for (int i = 0; i < 3; ++i) communicator->all_reduce(values, ReduceOp::sum).wait();
        communicator->barrier({.what = "step control"}).wait();
      } catch (const CollectiveError& error) {
        ends[static_cast<size_t>(rank)] = error.what();
      }
      if (rank == 1) known.set_value();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(ends, Each(AllOf(HasSubstr("rank 1 is in step 0"),
                               HasSubstr("its last collective, #5 barrier \"step control\", is "
                                         "queued"),
                               HasSubstr("and the last begun is #1"),
                               HasSubstr("It answers, but its device is late"))));
}

TEST(NcclFaults, TheWatchNamesRanksThatCallDifferentCollectives) {
  MemoryStore memory;
  const auto ends = run_nccl_ranks({.size = 3, .device = kGpu}, [&](const Rank& rank) {
    Communicator& communicator = rank.communicator;
    communicator.set_timeout(kDeadline);
    Watch watch(communicator, [&] { return memory.connect(); }, {.beat_every = milliseconds(50)});
    communicator.barrier().wait();
    const auto call = [&](int64_t elements) {
      return communicator.all_reduce(on_gpu(Array::zeros({elements}, DType::f32)), ReduceOp::sum,
                                     {.what = "gradients", .bucket = 3});
    };
    const Work first = call(communicator.rank() == 2 ? 5 : 4);
    const Work second = call(6);  // the host is ahead
    while (!second.done()) sleep(milliseconds(10));
    first.wait();
  });
  EXPECT_THAT(ends,
              Each(HasSubstr("ranks called different collectives: rank 0 all_reduce(sum) of 4 f32 "
                             "\"gradients\", bucket 3 as #2; rank 2 all_reduce(sum) of 5 f32 "
                             "\"gradients\", bucket 3 as #2; 2 of 3 ranks do as rank 0")));
}

TEST(NcclFaults, AnErrorInTheBackgroundFailsTheCollective) {
  FakeNetwork network;
  const auto ends = run_nccl_ranks(network, {.device = kGpu}, [&](const Rank& rank) {
    rank.communicator.set_timeout(3 * kDeadline);
    rank.communicator.barrier().wait();
    if (rank.communicator.rank() == 1) {
      sleep(milliseconds(50));
      network.break_rank(0, 6);
      sleep(milliseconds(50));
    }
    rank.communicator.barrier({.what = "end"}).wait();
  });
  EXPECT_THAT(ends[0],
              AllOf(HasSubstr("barrier #2 \"end\", on rank 0 of 2"), HasSubstr("the fake says 6")));
  EXPECT_THAT(ends[1], HasSubstr("no progress"));
  EXPECT_EQ(network.aborts(0), 1);
  EXPECT_EQ(network.aborts(1), 1);
}

TEST(NcclFaults, WhatFailsAfterWaitIsThrownLater) {
  FakeNetwork network;
  MemoryStore memory;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      FakeNccl library(network, rank);
      FakeStream compute;
      const auto store = memory.connect();
      const auto communicator = nccl::make_communicator(
          library, *store, {.rank = rank, .size = 2, .device = kGpu, .compute = &compute},
          kDeadline);
      network.set_paused(true);
      const Array values = on_gpu(Array::zeros({4}, DType::f32));
      const Work work = communicator->all_reduce(values, ReduceOp::sum);
      work.wait();
      sleep(3 * kDeadline);
      EXPECT_THROW(work.wait(), CollectiveError);
      EXPECT_THROW(communicator->all_reduce(values, ReduceOp::sum).wait(), CollectiveError);
      EXPECT_EQ(communicator->recorder()->last("world")->sequence, 2u);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(NcclFaults, AbortWakesThisRankAndReachesItsParts) {
  const auto ends = run_nccl_ranks({.timeout = 4 * kDeadline}, [](const Rank& rank) {
    const auto part = rank.communicator.split(0, 0);
    std::thread other;
    if (rank.communicator.rank() == 1) {
      other = std::thread([&] {
        sleep(milliseconds(50));
        rank.communicator.abort("out of coffee");
      });
    }
    if (rank.communicator.rank() == 0) sleep(milliseconds(100));
    std::string reason;
    try {
      part->barrier().wait();
    } catch (const CollectiveError& error) {
      reason = error.what();
    }
    if (other.joinable()) other.join();
    if (!reason.empty()) throw CollectiveError(reason);
  });
  EXPECT_THAT(ends[0], HasSubstr("no progress"));
  EXPECT_THAT(ends[1], HasSubstr("out of coffee"));
}

TEST(NcclFaults, ARankThatNeverComesIsNamed) {
  const auto ends =
      run_nccl_ranks({.size = 3, .timeout = kDeadline, .missing = 1}, [](const Rank&) {});
  for (const int rank : {0, 2}) {
    EXPECT_THAT(ends[static_cast<size_t>(rank)],
                AllOf(HasSubstr("not met within 300 ms"), HasSubstr("ranks not seen: 1")));
  }
  const auto without_0 =
      run_nccl_ranks({.size = 2, .timeout = kDeadline, .missing = 0}, [](const Rank&) {});
  EXPECT_THAT(without_0[1], HasSubstr("ranks not seen: 0"));
}

TEST(NcclFaults, ARankThatDiesAfterTheMeetingEndsTheOthersWait) {
  FakeNetwork network;
  const auto ends = run_nccl_ranks(
      network, {.size = 3, .timeout = kDeadline, .dies_after_meeting = 2}, [](const Rank&) {});
  EXPECT_THAT(ends[0], HasSubstr("3 ranks has not come together within 300 ms, as rank 0 sees it"));
  EXPECT_EQ(network.aborts(0), 1);
  EXPECT_EQ(network.aborts(1), 1);
}

TEST(NcclFaults, RanksMeetWhereOthersHaveDied) {
  FakeNetwork network;
  MemoryStore memory;
  const auto store = memory.connect();
  ASSERT_TRUE(store->set("nccl/hello/1", "of an attempt before").ok());
  ASSERT_TRUE(store->set("nccl/confirmed/of an attempt before", "its id").ok());
  std::vector<std::thread> threads;
  for (int round = 0; round < 2; ++round) {
    for (int rank = 0; rank < 3; ++rank) {
      threads.emplace_back([&, rank] {
        if (rank == 1) sleep(milliseconds(50));
        FakeNccl library(network, rank);
        const auto own = memory.connect();
        const auto communicator =
            nccl::make_communicator(library, *own, {.rank = rank, .size = 3}, kPlenty);
        communicator->barrier().wait();
      });
    }
    for (std::thread& thread : threads) thread.join();
    threads.clear();
  }
  EXPECT_EQ(store->list("nccl/")->size(), 0u);
}

}  // namespace
}  // namespace lockstep::testing
