#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>

#include "support/collective_checks.h"
#include "support/thread_ranks.h"

namespace lockstep::testing {
namespace {

using std::chrono::milliseconds;

class ThreadGroupTest : public ::testing::TestWithParam<int> {};

TEST_P(ThreadGroupTest, EveryCollectiveIsExact) {
  run_ranks(GetParam(), [](Communicator& communicator) {
    for (const DType dtype : kNumberTypes) {
      for (const int64_t elements : {0, 1, 3, 1000}) {
        check_collectives(communicator, dtype, elements);
      }
    }
  });
}

TEST_P(ThreadGroupTest, LargeArraysAreExact) {
  run_ranks(GetParam(), [](Communicator& communicator) {
    check_all_reduce<float>(communicator, 1'200'001, ReduceOp::sum);
    check_all_reduce<BFloat16>(communicator, 300'001, ReduceOp::mean);
    check_reduce_scatter<double>(communicator, 200'001, ReduceOp::sum);
    check_all_gather<int64_t>(communicator, 200'001);
    check_broadcast<uint8_t>(communicator, 1'200'001);
  });
}

TEST_P(ThreadGroupTest, ManyInFlight) {
  run_ranks(GetParam(), [](Communicator& communicator) { check_in_flight(communicator, 20, 500); });
}

TEST_P(ThreadGroupTest, Split) {
  run_ranks(GetParam(), [](Communicator& communicator) { check_split(communicator); });
}

INSTANTIATE_TEST_SUITE_P(Ranks, ThreadGroupTest, ::testing::Values(1, 2, 3, 4));

// Runs `body` on every rank and returns each rank's error, "" for none.
std::vector<std::string> errors_of(int size, const RankBody& body) {
  std::vector<std::string> errors(static_cast<size_t>(size));
  run_ranks(size, [&](Communicator& communicator) {
    try {
      body(communicator);
    } catch (const CollectiveError& error) {
      errors[static_cast<size_t>(communicator.rank())] = error.what();
    }
  });
  return errors;
}

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << text << "' lacks '" << part << "'";
}

TEST(ThreadGroup, SumsInTheOrderOfTheRanks) {
  run_ranks(4, [](Communicator& communicator) {
    constexpr float kValues[] = {1e8f, 1.0f, -1e8f, 0.5f};
    for (int repeat = 0; repeat < 50; ++repeat) {
      const Array value = Array::empty({1}, DType::f32);
      *value.data<float>() = kValues[communicator.rank()];
      communicator.all_reduce(value, ReduceOp::sum).wait();
      LOCKSTEP_CHECK(*value.data<float>() == ((1e8f + 1.0f) + -1e8f) + 0.5f, "order");
    }
  });
}

TEST(ThreadGroup, BFloat16SumsAreRoundedOnce) {
  run_ranks(4, [](Communicator& communicator) {
    const Array value = Array::empty({1}, DType::bf16);
    *value.data<BFloat16>() = BFloat16(communicator.rank() == 0 ? 256.0f : 1.0f);
    communicator.all_reduce(value, ReduceOp::sum).wait();
    LOCKSTEP_CHECK(static_cast<float>(*value.data<BFloat16>()) == 260.0f, "rounded at each rank");
  });
}

TEST(ThreadGroup, ARankMayRunAheadAndDropItsWorks) {
  run_ranks(2, [](Communicator& communicator) {
    if (communicator.rank() == 1) std::this_thread::sleep_for(milliseconds(20));
    const Array value = Array::empty({1}, DType::i32);
    *value.data<int32_t>() = 1;
    for (int n = 0; n < 100; ++n) communicator.barrier();
    Work last = communicator.all_reduce(value, ReduceOp::sum);
    last.wait();
    EXPECT_TRUE(last.done());
    EXPECT_EQ(*value.data<int32_t>(), 2);
    EXPECT_EQ(communicator.collectives_started(), 101u);
  });
}

TEST(ThreadGroup, ALateRankIsNamed) {
  const auto errors = errors_of(4, [](Communicator& communicator) {
    communicator.set_timeout(milliseconds(100));
    if (communicator.rank() >= 2) {
      std::this_thread::sleep_for(milliseconds(600));
    }
    const Array values = Array::empty({4}, DType::f32);
    communicator.all_reduce(values, ReduceOp::sum, {.what = "gradients", .bucket = 3}).wait();
  });
  for (size_t rank = 0; rank < 4; ++rank) {
    expect_contains(errors[rank], "all_reduce #1 \"gradients\", bucket 3, on rank " +
                                      std::to_string(rank) + " of 4");
    expect_contains(errors[rank], "no progress for 100 ms");
    expect_contains(errors[rank], "ranks not seen: 2, 3");
  }
}

TEST(ThreadGroup, ARankThatLeftIsNamedAtOnce) {
  auto ranks = make_thread_group(2);
  const Work early = ranks[0]->barrier();
  ranks[1].reset();
  const Work late = ranks[0]->barrier({.what = "end"});
  for (const Work& work : {early, late}) {
    try {
      work.wait();
      FAIL() << "a barrier without rank 1 ended well";
    } catch (const CollectiveError& error) {
      expect_contains(error.what(), "rank 1 has left the group");
    }
  }
}

TEST(ThreadGroup, EveryRankLearnsOfAMismatch) {
  struct Case {
    const char* name;
    std::function<void(Communicator&)> odd;
    const char* shown;
  };
  const Case cases[] = {
      {"kind", [](Communicator& c) { c.barrier().wait(); }, "barrier"},
      {"length",
       [](Communicator& c) { c.all_reduce(Array::empty({5}, DType::f32), ReduceOp::sum).wait(); },
       "all_reduce(sum) of 5 f32"},
      {"dtype",
       [](Communicator& c) { c.all_reduce(Array::empty({4}, DType::f64), ReduceOp::sum).wait(); },
       "all_reduce(sum) of 4 f64"},
      {"reduction",
       [](Communicator& c) { c.all_reduce(Array::empty({4}, DType::f32), ReduceOp::max).wait(); },
       "all_reduce(max) of 4 f32"},
      {"name",
       [](Communicator& c) {
         c.all_reduce(Array::empty({4}, DType::f32), ReduceOp::sum, {.what = "other"}).wait();
       },
       "\"other\""},
  };
  for (const Case& each : cases) {
    const auto errors = errors_of(3, [&](Communicator& communicator) {
      if (communicator.rank() == 1) return each.odd(communicator);
      communicator.all_reduce(Array::empty({4}, DType::f32), ReduceOp::sum, {.bucket = 7}).wait();
    });
    for (const std::string& error : errors) {
      SCOPED_TRACE(each.name);
      expect_contains(error, "different collectives");
      expect_contains(error, ", on rank 1 of 3");
      expect_contains(error, "all_reduce #1, bucket 7, on rank ");
      expect_contains(error, each.shown);
      expect_contains(error, "all_reduce(sum) of 4 f32");
    }
  }
}

TEST(ThreadGroup, AbortWakesEverybody) {
  const auto errors = errors_of(3, [](Communicator& communicator) {
    if (communicator.rank() == 2) {
      std::this_thread::sleep_for(milliseconds(20));
      communicator.abort("out of coffee");
    }
    communicator.barrier().wait();
  });
  for (const std::string& error : errors) expect_contains(error, "out of coffee");
}

TEST(ThreadGroup, AbortReachesTheParts) {
  const auto errors = errors_of(4, [](Communicator& communicator) {
    const auto part = communicator.split(0, 0);
    if (communicator.rank() == 3) {
      std::this_thread::sleep_for(milliseconds(20));
      communicator.abort("stop");
    }
    part->barrier().wait();
  });
  for (const std::string& error : errors) expect_contains(error, "stop");
}

TEST(ThreadGroup, TheFirstErrorOfARankIsRethrown) {
  try {
    run_ranks(3, [](Communicator& communicator) {
      if (communicator.rank() == 1) fail({"rank 1 broke"});
      communicator.barrier().wait();
    });
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "rank 1 broke");
  }
}

}  // namespace
}  // namespace lockstep::testing
