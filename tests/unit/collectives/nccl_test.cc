#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <future>

#include "lockstep/collectives/flight_recorder.h"
#include "support/collective_checks.h"
#include "support/nccl_ranks.h"

namespace lockstep::testing {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

class NcclTest : public ::testing::TestWithParam<int> {};

TEST_P(NcclTest, EveryCollectiveIsExact) {
  const auto ends = run_nccl_ranks({.size = GetParam()}, [](const Rank& rank) {
    EXPECT_EQ(rank.communicator.backend(), "nccl");
    for (const DType dtype : kNumberTypes) {
      for (const int64_t elements : {0, 1, 3, 1000}) {
        check_collectives(rank.communicator, dtype, elements);
      }
    }
  });
  EXPECT_THAT(ends, Each("well"));
}

TEST_P(NcclTest, ArraysOnTheHostPassThroughTheDevice) {
  const auto ends = run_nccl_ranks({.size = GetParam(), .device = kGpu}, [](const Rank& rank) {
    for (const int64_t elements : {0, 1, 3, 5000}) {
      check_all_reduce<double>(rank.communicator, elements, ReduceOp::sum);
      check_all_reduce<BFloat16>(rank.communicator, elements, ReduceOp::max);
      check_reduce_scatter<float>(rank.communicator, elements, ReduceOp::mean);
      check_all_gather<int32_t>(rank.communicator, elements);
      check_broadcast<uint8_t>(rank.communicator, elements);
    }
    check_in_flight(rank.communicator, 20, 500);
    const auto all = all_gather_text(rank.communicator, "abc", "names");
    EXPECT_EQ(all, std::vector<std::string>(static_cast<size_t>(rank.communicator.size()), "abc"));
  });
  EXPECT_THAT(ends, Each("well"));
}

TEST_P(NcclTest, SplitsAndRanksThatConnectLate) {
  FakeNetwork network(/*connects_late=*/true);
  const auto ends = run_nccl_ranks(network, {.size = GetParam()}, [](const Rank& rank) {
    check_in_flight(rank.communicator, 20, 500);
    check_split(rank.communicator);
    const auto part = rank.communicator.split(0, rank.communicator.rank());
    EXPECT_EQ(part->name(), "world/0");
    EXPECT_EQ(part->recorder(), rank.communicator.recorder());
    check_split(*part);
  });
  EXPECT_THAT(ends, Each("well"));
  for (int rank = 0; rank < GetParam(); ++rank) EXPECT_EQ(network.aborts(rank), 0);
}

INSTANTIATE_TEST_SUITE_P(Ranks, NcclTest, ::testing::Values(1, 2, 3, 4));

TEST(Nccl, ArraysOfADeviceAndOfTheHostMix) {
  const auto ends = run_nccl_ranks({.device = kGpu}, [](const Rank& rank) {
    const Array host = Array::full({8}, 1, DType::f32),
                device = on_gpu(Array::full({8}, 1, DType::f32));
    rank.communicator.all_reduce(device, ReduceOp::sum).wait();
    rank.communicator.all_reduce(host, ReduceOp::sum).wait();
    EXPECT_EQ(host.data<float>()[7], 2);
    EXPECT_EQ(device.data<float>()[7], 2);
    EXPECT_THROW(rank.communicator.all_gather(host.narrow(0, 0, 4), device), Error);
  });
  EXPECT_THAT(ends, Each("well"));
}

TEST(Nccl, OnADeviceWaitDoesNotBlockTheHost) {
  FakeNetwork network;
  MemoryStore memory;
  std::vector<std::thread> threads;
  std::atomic<int> waited{0};
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      FakeNccl library(network, rank);
      FakeStream compute;
      const auto store = memory.connect();
      const auto communicator = nccl::make_communicator(
          library, *store, {.rank = rank, .size = 2, .device = kGpu, .compute = &compute}, kPlenty);
      network.set_paused(true);
      const Array values = on_gpu(Array::empty({4}, DType::f32));
      // The input is there only when the compute stream has written it.
      compute.push([&] {
        sleep(milliseconds(50));
        std::fill_n(values.data<float>(), 4, 1.0f);
      });
      const Work work = communicator->all_reduce(values, ReduceOp::sum);
      work.wait();
      EXPECT_FALSE(work.done());
      float seen = 0;
      compute.push([&] { seen = values.data<float>()[3]; });
      if (++waited == 2) {
        sleep(milliseconds(100));
        network.set_paused(false);
      }
      communicator->barrier().wait();
      EXPECT_TRUE(work.done());
      EXPECT_GE(work.duration(), milliseconds(20));
      std::promise<void> reached;
      compute.push([&] { reached.set_value(); });
      reached.get_future().wait();
      EXPECT_EQ(seen, 2);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(Nccl, ArraysAreKeptUntilTheDeviceIsDone) {
  FakeNetwork network;
  network.set_paused(true);
  std::atomic<int> looked{0};
  const auto ends = run_nccl_ranks(network, {.device = kGpu}, [&](const Rank& rank) {
    std::atomic<bool> gone{false};
    {
      const Array values = Array::full({100}, 1, DType::f32);
      const Ref<Storage> storage =
          Storage::adopt(kGpu, values.data(), values.bytes(), [&gone, values] { gone = true; });
      rank.communicator.all_reduce(Array(storage, DType::f32, {100}, {1}, 0), ReduceOp::sum);
    }
    sleep(milliseconds(50));
    EXPECT_FALSE(gone);
    if (++looked == 2) network.set_paused(false);
    rank.communicator.barrier().wait();
    EXPECT_TRUE(gone);
  });
  EXPECT_THAT(ends, Each("well"));
}

TEST(Nccl, WaitingForOwnKernelsIsNotLate) {
  FakeNetwork network;
  MemoryStore memory;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      FakeNccl library(network, rank);
      FakeStream compute;
      const auto store = memory.connect();
      const auto communicator = nccl::make_communicator(
          library, *store, {.rank = rank, .size = 2, .device = kGpu, .compute = &compute}, kPlenty);
      communicator->set_timeout(kDeadline);
      compute.push([] { sleep(3 * kDeadline); });
      const Array values = on_gpu(Array::full({4}, 1, DType::f32));
      communicator->all_reduce(values, ReduceOp::sum).wait();
      communicator->barrier().wait();
      EXPECT_EQ(values.data<float>()[0], 2);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(Nccl, BucketsAreRegisteredMemory) {
  const auto ends = run_nccl_ranks({}, [](const Rank& rank) {
    Array later;
    {
      const Array bucket = rank.communicator.allocate_bucket(100, DType::f32);
      later = rank.communicator.allocate_bucket(100, DType::f32);
      rank.communicator.all_reduce(bucket, ReduceOp::sum).wait();
      EXPECT_EQ(rank.library.allocated(), 2);
      EXPECT_EQ(rank.library.enrolled(), 2);
    }
    rank.communicator.barrier().wait();
    rank.communicator.barrier().wait();
    EXPECT_EQ(rank.library.allocated(), 1);
    EXPECT_EQ(rank.library.enrolled(), 1);
  });
  EXPECT_THAT(ends, Each("well"));
}

TEST(Nccl, ABucketThatTheDeviceStillUsesHoldsUpNothing) {
  FakeNetwork network;
  FakeNccl library(network, 0);
  MemoryStore memory;
  FakeStream compute;
  const auto store = memory.connect();
  const auto communicator =
      nccl::make_communicator(library, *store, {.compute = &compute}, kPlenty);
  std::promise<void> kernel_ends;
  Array bucket = communicator->allocate_bucket(100, DType::f32);
  compute.push([&] { kernel_ends.get_future().wait(); });
  bucket = Array();
  const Work next = communicator->barrier();
  for (int i = 0; i < 500 && !next.done(); ++i) sleep(milliseconds(10));
  EXPECT_TRUE(next.done());
  EXPECT_EQ(library.allocated(), 1);
  kernel_ends.set_value();
  for (int i = 0; i < 500 && library.allocated() > 0; ++i) sleep(milliseconds(10));
  EXPECT_EQ(library.allocated(), 0);
  EXPECT_EQ(library.enrolled(), 0);
}

TEST(Nccl, WhereTheDeviceIsFullItsCacheMakesRoomForStaging) {
  FakeNetwork network;
  FakeNccl library(network, 0);
  MemoryStore memory;
  const auto store = memory.connect();
  std::atomic<bool> full{true};
  library.set_full(&full);
  const auto communicator = nccl::make_communicator(
      library, *store, {.device = kGpu, .trim = [&] { full = false; }}, kPlenty);
  const Array values = Array::full({1000}, 3, DType::f32);
  communicator->all_reduce(values, ReduceOp::sum).wait();
  EXPECT_FALSE(full);
  full = true;  // what there is of it stays
  communicator->all_reduce(values, ReduceOp::sum).wait();
  EXPECT_EQ(values.data<float>()[999], 3);
}

TEST(Nccl, ABucketMayOutliveTheCommunicator) {
  FakeNetwork network;
  FakeNccl library(network, 0);
  MemoryStore memory;
  Array bucket;
  {
    const auto store = memory.connect();
    const auto communicator = nccl::make_communicator(library, *store, {}, kPlenty);
    bucket = communicator->allocate_bucket(100, DType::f32);
  }
  EXPECT_EQ(library.allocated(), 1);
  EXPECT_EQ(library.enrolled(), 0);
  bucket = Array();
  EXPECT_EQ(library.allocated(), 0);
}

TEST(Nccl, WithoutAPlaceToMeetThereIsAnErrorThatSaysHow) {
  for (const char* name : {"LOCKSTEP_STORE", "MASTER_ADDR", "MASTER_PORT"}) ::unsetenv(name);
  const World world{.rank = 1, .size = 2, .source = "RANK"};
  const auto message = [&]() -> std::string {
    try {
      make_communicator(world, kGpu);
    } catch (const UsageError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(message(), AllOf(HasSubstr("MASTER_ADDR"), HasSubstr("lockstep run")));
  ::setenv("MASTER_ADDR", "127.0.0.1", 1);
  EXPECT_THAT(message(), HasSubstr("port ''"));
  ::unsetenv("MASTER_ADDR");
  ::setenv("LOCKSTEP_STORE", "nowhere", 1);
  EXPECT_THAT(message(), HasSubstr("LOCKSTEP_STORE"));
  ::unsetenv("LOCKSTEP_STORE");
}

TEST(Nccl, Rank0HostsTheStoreAtTheMastersPort) {
  auto probe = TcpStoreServer::start({});
  ASSERT_TRUE(probe.ok());
  const std::string port = std::to_string((*probe)->port());
  probe->reset();
  ::setenv("MASTER_ADDR", "localhost", 1);
  ::setenv("MASTER_PORT", port.c_str(), 1);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      const nccl::JobStore job = nccl::connect_job_store({.rank = rank, .size = 2}, kPlenty);
      EXPECT_EQ(job.host != nullptr, rank == 0);
      EXPECT_TRUE(job.store->set("here" + std::to_string(rank), "").ok());
      EXPECT_TRUE(job.store->get("here" + std::to_string(1 - rank), kPlenty).ok());
      EXPECT_TRUE(job.store->set("done" + std::to_string(rank), "").ok());
      if (rank == 0) {
        EXPECT_TRUE(job.store->get("done1", kPlenty).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ::unsetenv("MASTER_ADDR");
  ::unsetenv("MASTER_PORT");
}

TEST(Nccl, AWorldOfOneOnADeviceIsSingle) {
  const auto communicator = make_communicator(World(), kGpu);
  EXPECT_EQ(communicator->backend(), "single");
  EXPECT_EQ(communicator->device(), kGpu);
  check_broadcast<float>(*communicator, 5);
  check_all_gather<float>(*communicator, 5);
}

}  // namespace
}  // namespace lockstep::testing
