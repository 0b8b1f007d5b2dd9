#include "lockstep/collectives/watch/watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <nlohmann/json.hpp>

#include "lockstep/collectives/activity.h"
#include "lockstep/collectives/flight_recorder.h"
#include "support/thread_ranks.h"

namespace lockstep {
namespace {

using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr milliseconds kBeat{50};
constexpr milliseconds kDeadline{200};

// What each rank's thread ended with.
std::vector<std::string> run_ranks(
    int size, const std::function<void(Communicator&, Watch&, MemoryStore&)>& body) {
  MemoryStore memory;
  std::vector<std::string> ends(static_cast<size_t>(size));
  auto communicators = make_thread_group(size);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      Communicator& communicator = *communicators[static_cast<size_t>(rank)];
      communicator.set_timeout(kDeadline);
      Watch watch(communicator, [&] { return memory.connect(); }, {.beat_every = kBeat});
      try {
        communicator.barrier().wait();
        body(communicator, watch, memory);
        ends[static_cast<size_t>(rank)] = "well";
      } catch (const std::exception& error) {
        ends[static_cast<size_t>(rank)] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return ends;
}

TEST(WatchTest, NamesTheLateRankWithItsStepPhaseAndLastCollective) {
  const auto ends = run_ranks(3, [](Communicator& communicator, Watch& watch, MemoryStore&) {
    communicator.activity().set_step(17);
    if (communicator.rank() == 1) {
      const Activity::Phase phase(communicator.activity(), "data");
      while (!watch.verdict()) std::this_thread::sleep_for(kBeat);
    }
    communicator.barrier({.what = "gradients"}).wait();
  });
  for (const std::string& end : ends) {
    EXPECT_THAT(end, AllOf(HasSubstr("rank 1 is in step 17, phase data for"),
                           HasSubstr("its last collective, #1 barrier, is done since"),
                           HasSubstr("It answers, but is late")));
  }
}

TEST(WatchTest, WaitsForARankThatHasAnnouncedALongPhase) {
  const auto ends = run_ranks(3, [](Communicator& communicator, Watch& watch, MemoryStore&) {
    if (communicator.rank() == 0) {
      const Activity::Phase phase(communicator.activity(), "validation", milliseconds(20000));
      std::this_thread::sleep_for(6 * kDeadline);
    }
    communicator.barrier().wait();
  });
  EXPECT_THAT(ends, ::testing::Each("well"));
}

TEST(WatchTest, TheDeadlineBeginsAnewAfterAnAnnouncedPhase) {
  const auto ends = run_ranks(2, [](Communicator& communicator, Watch& watch, MemoryStore&) {
    communicator.set_timeout(3 * kDeadline);
    if (communicator.rank() == 0) {
      {
        const Activity::Phase phase(communicator.activity(), "data", milliseconds(20000));
        std::this_thread::sleep_for(5 * kDeadline);
      }
      std::this_thread::sleep_for(2 * kDeadline);
    }
    communicator.barrier().wait();
  });
  EXPECT_THAT(ends, ::testing::Each("well"));
}

TEST(WatchTest, ARankThatComesDuringTheInquiryIsNotLate) {
  const auto ends = run_ranks(2, [](Communicator& communicator, Watch&, MemoryStore&) {
    if (communicator.rank() == 0) std::this_thread::sleep_for(kDeadline + kBeat);
    communicator.barrier().wait();
    std::this_thread::sleep_for(4 * kBeat);
    communicator.barrier().wait();
  });
  EXPECT_THAT(ends, ::testing::Each("well"));
}

TEST(WatchTest, AnAnnouncedPhaseHasItsOwnEnd) {
  const auto ends = run_ranks(2, [](Communicator& communicator, Watch& watch, MemoryStore&) {
    if (communicator.rank() == 0) {
      const Activity::Phase phase(communicator.activity(), "validation", milliseconds(300));
      while (!watch.verdict()) std::this_thread::sleep_for(kBeat);
    }
    communicator.barrier().wait();
  });
  EXPECT_THAT(ends[1], AllOf(HasSubstr("rank 0"), HasSubstr("phase validation")));
}

TEST(WatchTest, AFailureIsToldWithItsReasonAtOnce) {
  const auto start = std::chrono::steady_clock::now();
  const auto ends = run_ranks(3, [](Communicator& communicator, Watch& watch, MemoryStore&) {
    communicator.set_timeout(milliseconds(60000));
    if (communicator.rank() == 2) {
      watch.fail("rank 2 has failed: the file ends early");
      while (!watch.verdict()) std::this_thread::sleep_for(kBeat);
      fail({"the file ends early"});
    }
    communicator.barrier().wait();
  });
  for (int rank : {0, 1}) {
    EXPECT_THAT(ends[static_cast<size_t>(rank)],
                HasSubstr("rank 2 has failed: the file ends early"));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

// A store client that ends without leaving is what a killed process leaves behind.
TEST(WatchTest, ADeadConnectionIsDeathAtOnce) {
  const auto ends = run_ranks(2, [](Communicator& communicator, Watch& watch, MemoryStore& memory) {
    communicator.set_timeout(milliseconds(60000));
    if (communicator.rank() == 1) {
      const auto dies = memory.connect();
      ASSERT_TRUE(dies->set_will("watch/verdict", "gone 1").ok());
    }
    communicator.barrier().wait();
    while (!watch.verdict()) std::this_thread::sleep_for(kBeat);
    communicator.barrier().wait();
  });
  EXPECT_THAT(ends[0], AllOf(HasSubstr("rank 1"), HasSubstr("It is gone")));
}

TEST(WatchTest, EndsAProcessThatDoesNotComeToItsEnd) {
  auto alone = make_single_communicator();
  MemoryStore memory;
  std::promise<std::string> ended;
  Watch watch(*alone, [&] { return memory.connect(); },
              {.beat_every = kBeat,
               .end_after = kBeat,
               .end_process = [&](const std::string& report) { ended.set_value(report); }});
  watch.fail("stuck");
  EXPECT_EQ(ended.get_future().get(), "stuck");
}

TEST(FlightRecorderTest, KeepsTheLastWithTheirTimes) {
  auto alone = make_single_communicator();
  const Array values = Array::zeros({3}, DType::f32);
  for (int i = 0; i < 2500; ++i) {
    alone->all_reduce(values, ReduceOp::mean, {.what = "gradients", .bucket = i}).wait();
  }
  const auto part = alone->split(0, 0);
  part->barrier().wait();
  const auto entries = alone->recorder()->entries();
  ASSERT_EQ(entries.size(), 2000u);
  EXPECT_EQ(entries.front().bucket, 501);
  EXPECT_EQ(entries.back().communicator, "world/0");
  EXPECT_EQ(alone->recorder()->last("world")->sequence, alone->collectives_started());

  const auto json = nlohmann::json::parse(alone->recorder()->to_json(3));
  EXPECT_EQ(json["rank"], 3);
  EXPECT_EQ(json["collectives"].size(), 2000u);
  EXPECT_EQ(json["collectives"][0]["collective"], "all_reduce(mean) of 3 f32");
  EXPECT_EQ(json["collectives"][0]["state"], "done");
  const auto trace = nlohmann::json::parse(alone->recorder()->to_chrome_trace(3));
  EXPECT_EQ(trace["traceEvents"][0]["name"], "gradients 501");
  EXPECT_GE(trace["traceEvents"][0]["dur"], 0.0);
}

// A file's name in an error, say: what tells of a failure must not fail.
TEST(FlightRecorderTest, WritesTextThatIsNoUtf8) {
  EXPECT_TRUE(Beat::parse(Beat{.phase = "\xff"}.to_text()));
  auto alone = make_single_communicator();
  alone->barrier({.what = "\xff"}).wait();
  EXPECT_TRUE(nlohmann::json::accept(alone->recorder()->to_json(0)));
  EXPECT_TRUE(nlohmann::json::accept(alone->recorder()->to_chrome_trace(0)));
}

TEST(FlightRecorderTest, ShowsWhatHasFailed) {
  auto ranks = make_thread_group(2);
  ranks[0]->set_timeout(kBeat);
  EXPECT_THROW(ranks[0]->barrier({.what = "end"}).wait(), CollectiveError);
  const auto json = nlohmann::json::parse(ranks[0]->recorder()->to_json(0));
  EXPECT_EQ(json["collectives"][0]["state"], "failed");
  EXPECT_THAT(json["collectives"][0]["error"].get<std::string>(), HasSubstr("ranks not seen: 1"));
}

}  // namespace
}  // namespace lockstep
