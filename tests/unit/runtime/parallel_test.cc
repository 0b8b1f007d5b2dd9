#include "lockstep/runtime/parallel.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <thread>
#include <vector>

#include "kernel_testing.h"

namespace lockstep {
namespace {

TEST(Parallel, RangesCoverEverythingOnce) {
  for (int threads : {1, 2, 5}) {
    const testing::Threads scope(threads);
    for (int64_t count : {0, 1, 7, 1000, 1001}) {
      for (int64_t grain : {1, 3, 64, 5000}) {
        std::vector<std::atomic<int>> seen(static_cast<size_t>(count));
        parallel_for(count, grain, [&](int64_t begin, int64_t end) {
          EXPECT_LT(begin, end);
          EXPECT_TRUE(end - begin >= grain || end == count);
          for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
        });
        for (const auto& times : seen) ASSERT_EQ(times, 1);
      }
    }
  }
}

TEST(Parallel, NestedLoopsRunOnTheirCaller) {
  const testing::Threads scope(3);
  std::atomic<int64_t> total = 0;
  parallel_for(30, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto outer = std::this_thread::get_id();
      parallel_for(100, 1, [&](int64_t first, int64_t last) {
        EXPECT_EQ(std::this_thread::get_id(), outer);
        total += last - first;
      });
    }
  });
  EXPECT_EQ(total, 3000);
}

// Helpers come late to a loop that is over, and to the next one, and go to sleep between them.
TEST(Parallel, ManySmallLoops) {
  const testing::Threads scope(3);
  int64_t total = 0;
  for (int i = 0; i < 5000; ++i) {
    std::vector<int64_t> each(6);
    parallel_for(6, 1, [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) each[static_cast<size_t>(j)] = j + i;
    });
    for (int64_t value : each) total += value;
    if (i % 1000 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  EXPECT_EQ(total, 5000 * 15 + 6 * (4999 * 5000 / 2));
}

TEST(Parallel, TheNumberOfThreadsMayChange) {
  for (int threads : {2, 4, 1, 3}) {
    const testing::Threads scope(threads);
    std::atomic<int64_t> total = 0;
    parallel_for(100, 1, [&](int64_t begin, int64_t end) { total += end - begin; });
    EXPECT_EQ(total, 100);
  }
}

TEST(Parallel, RanksAsThreadsLoopAtOnce) {
  std::atomic<int64_t> total = 0;
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 4; ++rank) {
    ranks.emplace_back([&] {
      const testing::Threads scope(2);
      for (int i = 0; i < 50; ++i) {
        parallel_for(64, 1, [&](int64_t begin, int64_t end) { total += end - begin; });
      }
    });
  }
  for (std::thread& rank : ranks) rank.join();
  EXPECT_EQ(total, 4 * 50 * 64);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// Room for the stacks of no thread, or of a few: each has its own.
void loop_with_room_for_threads(rlim_t bytes) {
  rlim_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const rlim_t all = pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE)) + bytes;
  const rlimit limit{all, all};
  if (setrlimit(RLIMIT_AS, &limit) != 0) _exit(2);
  const testing::Threads scope(64);
  std::atomic<int64_t> total = 0;
  for (int i = 0; i < 3; ++i) {
    parallel_for(1000, 1, [&](int64_t begin, int64_t end) { total += end - begin; });
  }
  _exit(total == 3000 ? 0 : 1);
}

TEST(ParallelDeathTest, GoesOnWithTheThreadsThatCouldBeStarted) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (rlim_t mebibytes : {4, 20}) {
    EXPECT_EXIT(loop_with_room_for_threads(mebibytes << 20), ::testing::ExitedWithCode(0),
                "the system starts no more threads: loops run on [0-9]+ instead of 64");
  }
}
#endif

TEST(Parallel, CountsWhatThisProcessMayUse) {
  cpu_set_t set;
  ASSERT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
  EXPECT_GE(available_cpus(), 1);
  EXPECT_LE(available_cpus(), CPU_COUNT(&set));
  const testing::Threads scope(1);
  EXPECT_EQ(thread_count(), 1);
}

}  // namespace
}  // namespace lockstep
