#include "lockstep/collectives/watch/watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <map>
#include <nlohmann/json.hpp>

#include "lockstep/collectives/activity.h"
#include "lockstep/collectives/flight_recorder.h"
#include "lockstep/collectives/store/tcp_store.h"
#include "support/thread_ranks.h"

namespace lockstep {
namespace {

using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr milliseconds kBeat{50};
constexpr milliseconds kDeadline{200};

using Connect = std::function<std::unique_ptr<Store>(int rank)>;

// What each rank's thread ended with.
std::vector<std::string> run_ranks(int size, Watch::Options options, const Connect& connect,
                                   const std::function<void(Communicator&, Watch&)>& body) {
  std::vector<std::string> ends(static_cast<size_t>(size));
  auto communicators = make_thread_group(size);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      Communicator& communicator = *communicators[static_cast<size_t>(rank)];
      communicator.set_timeout(kDeadline);
      Watch watch(
          communicator, [&] { return connect(rank); }, options);
      try {
        communicator.barrier().wait();
        body(communicator, watch);
        ends[static_cast<size_t>(rank)] = "well";
      } catch (const std::exception& error) {
        ends[static_cast<size_t>(rank)] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return ends;
}

std::vector<std::string> run_ranks(
    int size, const std::function<void(Communicator&, Watch&, MemoryStore&)>& body) {
  MemoryStore memory;
  return run_ranks(
      size, {.beat_every = kBeat}, [&](int) { return memory.connect(); },
      [&](Communicator& communicator, Watch& watch) { body(communicator, watch, memory); });
}

void wait_for_verdict(const Watch& watch) {
  while (!watch.verdict()) std::this_thread::sleep_for(kBeat);
}

TEST(WatchTest, NamesTheLateRankWithItsStepPhaseAndLastCollective) {
  const auto ends = run_ranks(3, [](Communicator& communicator, Watch& watch, MemoryStore&) {
    communicator.activity().set_step(17);
    if (communicator.rank() == 1) {
      const Activity::Phase phase(communicator.activity(), "data");
      wait_for_verdict(watch);
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
  const auto ends = run_ranks(3, [](Communicator& communicator, Watch&, MemoryStore&) {
    if (communicator.rank() == 0) {
      const Activity::Phase phase(communicator.activity(), "validation", milliseconds(20000));
      std::this_thread::sleep_for(6 * kDeadline);
    }
    communicator.barrier().wait();
  });
  EXPECT_THAT(ends, ::testing::Each("well"));
}

TEST(WatchTest, TheDeadlineBeginsAnewAfterAnAnnouncedPhase) {
  const auto ends = run_ranks(2, [](Communicator& communicator, Watch&, MemoryStore&) {
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
      wait_for_verdict(watch);
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
      wait_for_verdict(watch);
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
      ASSERT_TRUE(dies->set_will("job/verdict", "gone 1").ok());
    }
    communicator.barrier().wait();
    wait_for_verdict(watch);
    communicator.barrier().wait();
  });
  EXPECT_THAT(ends[0], AllOf(HasSubstr("rank 1"), HasSubstr("It is gone")));
}

// The store of a rank that stands still now and then: its beats wait meanwhile.
class StandingStill final : public Store {
 public:
  StandingStill(std::unique_ptr<Store> store, const std::atomic<bool>& stands)
      : store_(std::move(store)), stands_(stands) {}

  absl::Status set(std::string_view key, std::string_view value) override {
    while (stands_) std::this_thread::sleep_for(milliseconds(5));
    return store_->set(key, value);
  }
  absl::StatusOr<std::string> set_once(std::string_view key, std::string_view value) override {
    return store_->set_once(key, value);
  }
  absl::StatusOr<std::string> get(std::string_view key, Milliseconds timeout) override {
    return store_->get(key, timeout);
  }
  absl::StatusOr<int64_t> add(std::string_view key, int64_t delta) override {
    return store_->add(key, delta);
  }
  absl::StatusOr<bool> remove(std::string_view key) override { return store_->remove(key); }
  absl::StatusOr<std::map<std::string, std::string>> list(std::string_view prefix) override {
    return store_->list(prefix);
  }
  absl::Status set_will(std::string_view key, std::string_view value) override {
    return store_->set_will(key, value);
  }
  absl::Status leave() override { return store_->leave(); }
  void close() override { store_->close(); }

 private:
  std::unique_ptr<Store> store_;
  const std::atomic<bool>& stands_;
};

// Rank 1 of 2 stands still for so long, in the middle of its forward pass.
std::vector<std::string> stand_still(milliseconds duration) {
  MemoryStore memory;
  std::atomic<bool> stands{false};
  const auto connect = [&](int rank) -> std::unique_ptr<Store> {
    if (rank == 0) return memory.connect();
    return std::make_unique<StandingStill>(memory.connect(), stands);
  };
  return run_ranks(2, {.beat_every = 4 * kBeat}, connect, [&](Communicator& communicator, Watch&) {
    if (communicator.rank() == 1) {
      const Activity::Phase phase(communicator.activity(), "forward");
      std::this_thread::sleep_for(3 * kBeat);
      stands = true;
      std::this_thread::sleep_for(duration);
      stands = false;
    }
    communicator.barrier().wait();
  });
}

TEST(WatchTest, ARankThatAnswersNoMoreIsStopped) {
  const auto ends = stand_still(kDeadline + 36 * kBeat);
  EXPECT_THAT(ends[0], AllOf(HasSubstr("rank 1 is in step 0, phase forward for"),
                             HasSubstr("It no longer answers")));
}

// Its machine hiccuped: it is silent at the first look, and there at the second.
TEST(WatchTest, ARankThatStoodStillForAMomentIsNotCondemned) {
  EXPECT_THAT(stand_still(kDeadline + 12 * kBeat), ::testing::Each("well"));
}

TEST(WatchTest, WhoHostsTheStoreIsNamedWithItsPhaseWhenItIsGone) {
  auto server = TcpStoreServer::start({.token = "secret"});
  ASSERT_TRUE(server.ok());
  const auto connect = [&](int) {
    return *connect_tcp_store({"localhost", (*server)->port(), "secret"});
  };
  std::atomic<int> ready{0};
  const auto ends = run_ranks(3, {.beat_every = kBeat, .store_host = 0}, connect,
                              [&](Communicator& communicator, Watch& watch) {
                                communicator.set_timeout(milliseconds(60000));
                                const Activity::Phase phase(communicator.activity(), "backward");
                                communicator.activity().set_step(5);
                                std::this_thread::sleep_for(6 * kBeat);
                                ++ready;
                                if (communicator.rank() == 0) {
                                  while (ready < 3) std::this_thread::sleep_for(kBeat);
                                  server->reset();
                                  wait_for_verdict(watch);
                                }
                                communicator.barrier().wait();
                              });
  EXPECT_THAT(ends, ::testing::Each(AllOf(HasSubstr("rank 0 is in step 5, phase backward for"),
                                          HasSubstr("It hosts the job's store and is gone"))));
}

TEST(WatchTest, TwoCulpritsAreBothNamed) {
  const auto ends = run_ranks(4, [](Communicator& communicator, Watch& watch, MemoryStore&) {
    if (communicator.rank() % 2 == 1) wait_for_verdict(watch);
    communicator.barrier().wait();
  });
  for (const std::string& end : ends) {
    EXPECT_THAT(end, AllOf(HasSubstr("rank 1 is in step 0"), HasSubstr("; rank 3 is in step 0")));
  }
}

TEST(WatchTest, OfManyFailuresAtOnceOneIsTheVerdictOfAll) {
  const auto ends = run_ranks(4, [](Communicator& communicator, Watch& watch, MemoryStore&) {
    watch.fail(concat({"failure of rank ", communicator.rank()}));
    wait_for_verdict(watch);
    fail({*watch.verdict()});
  });
  EXPECT_THAT(ends[0], HasSubstr("failure of rank "));
  EXPECT_THAT(ends, ::testing::Each(ends[0]));
}

// Watches end while verdicts fall, collectives are late and beats are on their way.
TEST(WatchTest, MayEndAtAnyMoment) {
  for (int round = 0; round < 40; ++round) {
    MemoryStore memory;
    auto communicators = make_thread_group(2);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < 2; ++rank) {
      threads.emplace_back([&, rank] {
        Communicator& communicator = *communicators[static_cast<size_t>(rank)];
        communicator.set_timeout(milliseconds(1 + round % 3));
        Work late;
        {
          Watch watch(communicator, [&] { return memory.connect(); },
                      {.beat_every = milliseconds(1), .end_process = [](const std::string&) {}});
          if (rank == 0) late = communicator.barrier();
          if (rank == 1 && round % 2 == 0) watch.fail("enough");
          std::this_thread::sleep_for(std::chrono::microseconds(100 * (round % 20)));
          if (rank == 0 && round % 4 < 2) {
            EXPECT_THROW(late.wait(), CollectiveError);
          }
        }
        if (rank == 0) {
          EXPECT_THROW(late.wait(), CollectiveError);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
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
}

TEST(FlightRecorderTest, ItsTraceIsInTheTraceEventFormat) {
  auto alone = make_single_communicator();
  alone->activity().set_step(4);
  const Activity::Phase phase(alone->activity(), "backward");
  alone->barrier({.what = "gradients", .bucket = 2}).wait();
  alone->split(0, 0)->barrier().wait();
  const auto trace = nlohmann::json::parse(alone->recorder()->to_chrome_trace(3));
  std::map<std::string, int> threads;
  int spans = 0;
  for (const auto& event : trace.at("traceEvents")) {
    EXPECT_EQ(event.at("pid"), 3);
    ASSERT_TRUE(event.at("tid").is_number_integer());
    if (event.at("ph") == "M") {
      threads[event.at("args").at("name").get<std::string>()] = event.at("tid").get<int>();
      continue;
    }
    EXPECT_EQ(event.at("ph"), "X");
    EXPECT_GT(event.at("ts").get<double>(), 0);
    EXPECT_GE(event.at("dur").get<double>(), 0);
    EXPECT_EQ(event.at("args").at("phase"), "backward");
    EXPECT_EQ(event.at("args").at("step"), 4);
    ++spans;
  }
  EXPECT_EQ(trace["traceEvents"][0]["name"], "gradients 2");
  EXPECT_EQ(spans, static_cast<int>(alone->recorder()->entries().size()));
  EXPECT_NE(threads.at("world"), threads.at("world/0"));
  EXPECT_TRUE(threads.contains("rank 3"));
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
