#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "lockstep/runtime/cpu/cpu_backend.h"

namespace lockstep {
namespace {

TEST(Allocator, BlocksAreAlignedAndLargeEnough) {
  const auto backend = make_cpu_backend();
  for (size_t bytes : {size_t{0}, size_t{1}, size_t{64}, size_t{65}, size_t{513}, size_t{1} << 20,
                       (size_t{1} << 20) + 1, size_t{123456789}}) {
    void* block = backend->allocate(bytes, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % 64, 0u);
    std::memset(block, 1, bytes);
    backend->deallocate(block, bytes);
  }
  EXPECT_EQ(backend->statistics().in_use_bytes, 0);
}

TEST(Allocator, NoClassWastesMoreThanAnEighth) {
  const auto backend = make_cpu_backend();
  for (size_t bytes = 1; bytes < 300'000; bytes += bytes / 50 + 1) {
    const int64_t before = backend->statistics().in_use_bytes;
    void* block = backend->allocate(bytes, nullptr);
    const auto taken = static_cast<size_t>(backend->statistics().in_use_bytes - before);
    EXPECT_GE(taken, bytes);
    EXPECT_LE(taken, bytes + bytes / 8 + 64);
    backend->deallocate(block, bytes);
  }
}

TEST(Allocator, ReusesWhatWasFreed) {
  const auto backend = make_cpu_backend();
  void* first = backend->allocate(1000, nullptr);
  backend->deallocate(first, 1000);
  void* second = backend->allocate(1010, nullptr);
  EXPECT_EQ(second, first);
  const MemoryStatistics statistics = backend->statistics();
  EXPECT_EQ(statistics.allocations, 2);
  EXPECT_EQ(statistics.system_allocations, 1);
  backend->deallocate(second, 1010);
  EXPECT_GT(backend->statistics().reserved_bytes, 0);
  backend->trim();
  EXPECT_EQ(backend->statistics().reserved_bytes, 0);
  EXPECT_EQ(backend->statistics().peak_in_use_bytes, 1024);
}

TEST(Allocator, TheLimitFirstEmptiesTheCacheThenNamesItself) {
  const auto backend = make_cpu_backend();
  backend->set_limit(1 << 20);
  void* small = backend->allocate(512 << 10, nullptr);
  backend->deallocate(small, 512 << 10);
  void* large = backend->allocate(1000 << 10, nullptr);  // fits only without the cached half
  EXPECT_NE(large, nullptr);
  try {
    backend->allocate(100 << 10, "matmul");
    FAIL() << "no error";
  } catch (const OutOfMemory& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("matmul asked for 102400 bytes"), std::string::npos) << message;
    EXPECT_NE(message.find("1048576"), std::string::npos) << message;
    EXPECT_NE(message.find(std::to_string(backend->statistics().in_use_bytes)), std::string::npos)
        << message;
  }
  backend->deallocate(large, 1000 << 10);
  backend->set_limit(0);
  backend->deallocate(backend->allocate(2 << 20, nullptr), 2 << 20);
}

TEST(Allocator, TheImpossibleIsAnErrorToo) {
  const auto backend = make_cpu_backend();
  EXPECT_THROW(backend->allocate(SIZE_MAX - 5, nullptr), OutOfMemory);
  EXPECT_THROW(backend->allocate(SIZE_MAX / 8, nullptr), OutOfMemory);
}

// Far below the limit it is the system that has no more.
TEST(Allocator, TheErrorNamesTheLimitOnlyWhereItIsReached) {
  const auto backend = make_cpu_backend();
  const auto error_of = [&](size_t bytes) {
    try {
      backend->allocate(bytes, nullptr);
    } catch (const OutOfMemory& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  constexpr size_t kAll = size_t{1} << 47;  // what a process can address
  backend->set_limit(int64_t{1} << 50);
  EXPECT_NE(error_of(kAll).find("the system has no more"), std::string::npos) << error_of(kAll);
  backend->set_limit(1 << 20);
  EXPECT_NE(error_of(kAll).find("the limit is 1048576"), std::string::npos) << error_of(kAll);
}

TEST(Allocator, ThreadsShareIt) {
  const auto backend = make_cpu_backend();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&backend, t] {
      for (size_t i = 1; i < 500; ++i) {
        const size_t bytes = i * 37;
        auto* block = static_cast<unsigned char*>(backend->allocate(bytes, nullptr));
        std::memset(block, t, bytes);
        for (size_t j = 0; j < bytes; j += 64) ASSERT_EQ(block[j], t);
        backend->deallocate(block, bytes);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(backend->statistics().in_use_bytes, 0);
  EXPECT_EQ(backend->statistics().allocations, 4 * 499);
}

}  // namespace
}  // namespace lockstep
