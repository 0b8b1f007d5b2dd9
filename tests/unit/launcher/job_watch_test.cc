#include "lockstep/launcher/train/job_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "lockstep/collectives/activity.h"
#include "lockstep/collectives/store/tcp_store.h"
#include "support/temporary_directory.h"
#include "support/thread_ranks.h"

namespace lockstep::train {
namespace {

using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr milliseconds kTimeout{400};

nlohmann::json read_json(const std::filesystem::path& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file);
}

void wait_for(const std::atomic<int>& count, int least) {
  while (count < least) std::this_thread::sleep_for(milliseconds(10));
}

// Ranks as threads, rank 1 of which stays in its data; what each ended with.
std::vector<std::string> run_with_a_late_rank(const std::filesystem::path& flight_directory) {
  std::vector<std::string> ends(3);
  std::atomic<int> ended{0};
  auto communicators = make_thread_group(3);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 3; ++rank) {
    threads.emplace_back([&, rank] {
      Communicator& communicator = *communicators[static_cast<size_t>(rank)];
      communicator.set_timeout(kTimeout);
      JobWatch watch(communicator,
                     World{.rank = rank, .size = 3, .local_rank = rank, .local_size = 3},
                     {.timeout = kTimeout,
                      .flight_directory = flight_directory,
                      .end_process = [](const std::string&) {}});
      try {
        communicator.activity().set_step(2);
        const Activity::Phase phase(communicator.activity(), rank == 1 ? "data" : "reduction");
        if (rank == 1) wait_for(ended, 2);
        communicator.barrier({.what = "gradients", .bucket = 4}).wait();
      } catch (const CollectiveError& error) {
        ends[static_cast<size_t>(rank)] = error.what();
        watch.fail(error.what());
      }
      watch.leave();
      ++ended;
      wait_for(ended, 3);  // rank 0 hosts the store
    });
  }
  for (std::thread& thread : threads) thread.join();
  return ends;
}

TEST(JobWatchTest, EveryRankWritesItsLastCollectivesWhenTheJobFails) {
  const lockstep::testing::TemporaryDirectory directory;
  for (const std::string& end : run_with_a_late_rank(directory.path())) {
    EXPECT_THAT(end, AllOf(HasSubstr("rank 1 is in step 2, phase data for"), HasSubstr("late")));
  }
  for (int rank = 0; rank < 3; ++rank) {
    const std::string name = "flight-rank-" + std::to_string(rank);
    const auto record = read_json(directory / (name + ".json"));
    EXPECT_EQ(record.at("rank"), rank);
    EXPECT_TRUE(read_json(directory / (name + ".trace.json")).contains("traceEvents"));
    if (rank == 1) continue;  // it may not have come to the barrier before it wrote
    const auto& last = record.at("collectives").back();
    EXPECT_EQ(last.at("state"), "failed");
    EXPECT_EQ(last.at("what"), "gradients");
    EXPECT_EQ(last.at("bucket"), 4);
    EXPECT_EQ(last.at("step"), 2);
    EXPECT_EQ(last.at("phase"), "reduction");
  }
}

TEST(JobWatchTest, NothingIsWrittenWhereThereIsNoRunDirectory) {
  EXPECT_THAT(run_with_a_late_rank({}), ::testing::Each(HasSubstr("rank 1 is in step 2")));
  const lockstep::testing::TemporaryDirectory directory;
  run_with_a_late_rank(directory / "missing");
  EXPECT_FALSE(std::filesystem::exists(directory / "missing"));
}

TEST(OwnAddress, IsOneThatRanksOnOtherHostsReach) {
  const auto none = [](const char*) { return nullptr; };
  const auto master = [](const char* name) {
    return std::string_view(name) == "MASTER_ADDR" ? "node1" : nullptr;
  };
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  const World together{.size = 2, .local_size = 2};
  EXPECT_EQ(own_address(together, master), "127.0.0.1");
  const World apart{.size = 2, .local_size = 1};
  EXPECT_EQ(own_address(apart, master), "node1");
  EXPECT_EQ(own_address(apart, none), host);
  World unknown = together;
  unknown.local_size_known = false;
  EXPECT_EQ(own_address(unknown, master), "node1");
  EXPECT_EQ(own_address(unknown, none), host);
}

// The store that a launcher hosts.
TEST(JobWatchTest, MeetsInTheStoreThatTheEnvironmentNames) {
  const auto server = TcpStoreServer::start({.token = "given"});
  ASSERT_TRUE(server.ok()) << server.status();
  ::setenv("LOCKSTEP_STORE", ("127.0.0.1:" + std::to_string((*server)->port())).c_str(), 1);
  ::setenv("LOCKSTEP_STORE_TOKEN", "given", 1);
  auto ends = run_with_a_late_rank({});
  EXPECT_THAT(ends, ::testing::Each(HasSubstr("rank 1 is in step 2, phase data for")));
  ends = run_with_a_late_rank({});  // another job, which has a verdict of its own
  ::unsetenv("LOCKSTEP_STORE");
  ::unsetenv("LOCKSTEP_STORE_TOKEN");
  EXPECT_THAT(ends, ::testing::Each(HasSubstr("rank 1 is in step 2, phase data for")));
  const auto client = connect_tcp_store({"127.0.0.1", (*server)->port(), "given"});
  ASSERT_TRUE(client.ok());
  EXPECT_EQ((*client)->list("")->size(), 8u);  // three beats and a verdict each
}

}  // namespace
}  // namespace lockstep::train
