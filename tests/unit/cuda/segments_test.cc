// A device's memory over a driver that gives out addresses and counts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <iterator>
#include <map>
#include <thread>
#include <vector>

#include "lockstep/runtime/cuda/memory.h"

namespace lockstep::cuda {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kGiB = int64_t{1} << 30;

class CountingDriver final : public Driver {
 public:
  void* allocate(size_t bytes) override {
    const auto size = static_cast<int64_t>(bytes);
    if (held + size > capacity) return nullptr;
    held += size;
    ++allocations;
    last = size;
    void* data = reinterpret_cast<void*>(next_);
    next_ += (bytes + 511) / 512 * 512 + 4096;  // segments are no neighbours
    sizes_[data] = size;
    return data;
  }
  void free(void* data) override {
    held -= sizes_.at(data);
    sizes_.erase(data);
    ++frees;
  }

  DeviceProperties properties() override { return {}; }
  void use() override {}
  void* allocate_pinned(size_t) override { return nullptr; }
  void free_pinned(void*) noexcept override {}
  Stream make_stream() override { return nullptr; }
  void copy(void*, const void*, size_t, Stream) override {}
  void set_zero(void*, size_t, Stream) override {}
  void synchronize(Stream) override {}
  Event record(Stream) override { return nullptr; }
  Event record_in_graph(Stream) override { return nullptr; }
  bool is_reached(Event) override { return true; }
  void wait(Event) override {}
  double seconds_between(Event, Event) override { return 0; }
  void destroy(Event) noexcept override {}
  void begin_capture(Stream) override {}
  Graph end_capture(Stream, Stream) override { return nullptr; }
  void abandon_capture(Stream) noexcept override {}
  void launch(Graph, Stream) override {}
  void destroy(Graph) noexcept override {}

  int64_t capacity = 80 * kGiB;
  int64_t held = 0;
  int64_t last = 0;  // size of the last segment
  int allocations = 0, frees = 0;

 private:
  uintptr_t next_ = uintptr_t{1} << 32;
  std::map<void*, int64_t> sizes_;
};

class Segments : public testing::Test {
 protected:
  void* get(int64_t bytes) { return memory_.allocate(static_cast<size_t>(bytes), nullptr); }
  void get_and_give_back(int64_t bytes) { memory_.deallocate(get(bytes)); }
  int64_t reserved() const { return memory_.statistics().reserved_bytes; }
  std::string error_of(const std::function<void()>& call) {
    try {
      call();
    } catch (const OutOfMemory& error) {
      return error.what();
    }
    return "no error";
  }

  CountingDriver driver_;
  Memory memory_{driver_, {DeviceKind::cuda, 0}};
};

TEST_F(Segments, WhatIsReservedServesRequestsOfAllSizes) {
  memory_.reserve(kGiB);
  EXPECT_EQ(memory_.statistics().in_use_bytes, 0);
  EXPECT_EQ(reserved(), kGiB);
  std::map<char*, int64_t> parts;
  int64_t in_use = 0;
  for (int64_t size : {int64_t{100}, 5 * kMiB, 300 * kMiB, int64_t{100'000}, 40 * kMiB, 512 * kMiB,
                       int64_t{1}, kMiB, 11 * kMiB}) {
    parts[static_cast<char*>(get(size))] = size;
    in_use += (size + 511) / 512 * 512;
  }
  EXPECT_EQ(driver_.allocations, 1);
  EXPECT_EQ(memory_.statistics().system_allocations, 0);
  EXPECT_EQ(memory_.statistics().in_use_bytes, in_use);
  const char* end = nullptr;
  for (const auto& [data, size] : parts) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % 512, 0u);
    EXPECT_GE(data, end);
    end = data + size;
  }
  EXPECT_LE(end, parts.begin()->first + kGiB);
  for (const auto& [data, size] : parts) memory_.deallocate(data);
  get_and_give_back(kGiB);  // it is one block again
  EXPECT_EQ(driver_.allocations, 1);
  EXPECT_EQ(reserved(), kGiB);
}

// In whatever order they come and go.
TEST_F(Segments, WhatIsReservedBecomesWholeAgain) {
  memory_.reserve(256 * kMiB);
  uint64_t state = 1;
  const auto random = [&](uint64_t below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % below;
  };
  std::vector<void*> held;
  for (int i = 0; i < 5000; ++i) {
    if (held.size() > 60 || (!held.empty() && random(2) == 0)) {
      const size_t at = random(held.size());
      memory_.deallocate(held[at]);
      held[at] = held.back();
      held.pop_back();
    } else {
      held.push_back(
          get(static_cast<int64_t>(random(3) == 0 ? random(3'000'000) : random(30'000))));
    }
  }
  for (void* data : held) memory_.deallocate(data);
  get_and_give_back(256 * kMiB);
  EXPECT_EQ(driver_.allocations, 1);
}

// What is left when a block is cut is no longer of its neighbour's kind.
TEST_F(Segments, WhatIsLeftOfABlockJoinsItsNeighbour) {
  memory_.reserve(8 * kMiB);
  void* large = get(2 * kMiB);
  void* small = get(1000 * 1024);
  void* other = get(1000 * 1024);
  memory_.deallocate(small);
  memory_.deallocate(large);
  get_and_give_back(kMiB);
  memory_.deallocate(other);
  get_and_give_back(8 * kMiB);
  EXPECT_EQ(driver_.allocations, 1);
}

TEST_F(Segments, WhatIsReservedStays) {
  memory_.reserve(64 * kMiB);
  void* more = get(100 * kMiB);
  EXPECT_EQ(driver_.allocations, 2);
  memory_.deallocate(more);
  memory_.trim();
  EXPECT_EQ(reserved(), 64 * kMiB);
  EXPECT_EQ(driver_.frees, 1);
  memory_.reserve(32 * kMiB);
  EXPECT_EQ(reserved(), 96 * kMiB);
  void *first = get(64 * kMiB), *second = get(32 * kMiB);
  EXPECT_EQ(driver_.allocations, 3);
  memory_.deallocate(first);
  memory_.deallocate(second);
}

TEST_F(Segments, WhatIsThereIsCountedWithinTheLimit) {
  memory_.set_limit(64 * kMiB);
  EXPECT_THAT(
      error_of([&] { memory_.reserve(65 * kMiB); }),
      testing::HasSubstr("65 MiB asked for, 0 bytes in use, 0 bytes cached, the limit is 64 "
                         "MiB; held by nobody"));
  EXPECT_EQ(reserved(), 0);
  memory_.reserve(64 * kMiB - 100);  // of any size
  void *small = get(100), *large = get(61 * kMiB);
  EXPECT_EQ(driver_.allocations, 1);
  EXPECT_THAT(error_of([&] { get(2 * kMiB); }), testing::HasSubstr("the limit is 64 MiB"));
  EXPECT_THROW(memory_.account(kMiB), OutOfMemory);
  memory_.deallocate(small);
  memory_.deallocate(large);
}

TEST_F(Segments, MoreThanTheDeviceHasCannotBeReserved) {
  driver_.capacity = 10 * kGiB;
  memory_.set_limit(60 * kGiB);
  EXPECT_THAT(error_of([&] { memory_.reserve(40 * kGiB); }),
              testing::HasSubstr("40 GiB asked for, 0 bytes in use, 0 bytes cached, the device has "
                                 "no more; held by nobody"));
  EXPECT_THROW(memory_.reserve(int64_t{1} << 62), OutOfMemory);
  EXPECT_THROW(memory_.reserve(-1), Error);
  memory_.reserve(0);
  get_and_give_back(6 * kGiB);
  memory_.reserve(8 * kGiB);  // what is cached goes first
  EXPECT_EQ(driver_.held, 8 * kGiB);
}

// What a replay writes to is nobody else's, until the captures are gone.
TEST_F(Segments, CapturesHavePartsOfWhatIsReserved) {
  memory_.reserve(100 * kMiB);
  memory_.begin_capture();
  void* held = get(200);
  get_and_give_back(30 * kMiB);
  memory_.end_capture();
  EXPECT_EQ(driver_.allocations, 1);
  std::vector<void*> others;
  for (int i = 0; i < 6; ++i) others.push_back(get(11 * kMiB));
  EXPECT_EQ(driver_.allocations, 1);
  get_and_give_back(11 * kMiB);
  EXPECT_EQ(driver_.allocations, 2);
  memory_.begin_capture();
  get_and_give_back(30 * kMiB);
  memory_.end_capture();
  EXPECT_EQ(driver_.allocations, 2);
  memory_.release_capture();
  memory_.deallocate(held);
  memory_.release_capture();
  for (void* data : others) memory_.deallocate(data);
  get_and_give_back(100 * kMiB);
  memory_.begin_capture();
  get_and_give_back(200);
  get_and_give_back(30 * kMiB);
  memory_.end_capture();
  memory_.release_capture();
  get_and_give_back(100 * kMiB);  // their parts have joined the rest
  EXPECT_EQ(driver_.allocations, 2);
}

// A large block that is kept is cut before the device is asked to take memory back.
TEST_F(Segments, KeptBlocksComeBeforeTheDeviceIsAskedAgain) {
  get_and_give_back(400 * kMiB);
  get_and_give_back(30 * kMiB);
  memory_.set_limit(reserved() + 10 * kMiB);
  void* data = get(40 * kMiB);
  EXPECT_EQ(driver_.allocations, 2);
  EXPECT_EQ(driver_.frees, 0);
  EXPECT_EQ(reserved(), 430 * kMiB);
  memory_.deallocate(data);
  get_and_give_back(400 * kMiB);
  EXPECT_EQ(driver_.allocations, 2);
}

// A small block comes out of a large one that is free in part before anybody is refused, and
// before captures are let go for it.
TEST_F(Segments, ALargeOneThatWasAllPartsIsLargeAgain) {
  memory_.set_limit(12 * kMiB);
  get_and_give_back(12 * kMiB);
  std::vector<void*> small;
  void* half = get(6 * kMiB);
  for (int i = 0; i < 6; ++i) small.push_back(get(kMiB));
  memory_.deallocate(half);
  for (int i = 0; i < 6; ++i) small.push_back(get(kMiB));
  for (void* block : small) memory_.deallocate(block);
  get_and_give_back(12 * kMiB);
  EXPECT_EQ(driver_.allocations, 1);
  memory_.trim();
  EXPECT_EQ(driver_.held, 0);
}

TEST_F(Segments, AtTheLimitSmallBlocksComeOutOfLargeOnes) {
  memory_.set_limit(92 * kMiB);
  memory_.begin_capture();
  void* captured = get(200);
  memory_.end_capture();
  bool let_go = false;
  memory_.on_shortage(this, [&] {
    let_go = true;
    return false;
  });
  get_and_give_back(90 * kMiB);
  void* state = get(40 * kMiB);
  std::vector<void*> small;
  for (int64_t bytes : {512, 1'000'000, 100, 1'000'000, 1'000'000}) small.push_back(get(bytes));
  EXPECT_EQ(driver_.allocations, 2);
  EXPECT_FALSE(let_go);
  void* rest = get(40 * kMiB);
  EXPECT_THAT(error_of([&] { get(20 * kMiB); }), testing::HasSubstr("the limit is 92 MiB"));
  memory_.deallocate(small[2]);
  memory_.deallocate(state);
  for (int i : {4, 0, 3}) memory_.deallocate(small[i]);
  memory_.deallocate(rest);
  memory_.deallocate(small[1]);
  get_and_give_back(90 * kMiB);  // they have joined the rest
  EXPECT_EQ(driver_.allocations, 2);
  EXPECT_EQ(driver_.frees, 0);
  memory_.on_shortage(this, {});
  memory_.deallocate(captured);
  memory_.release_capture();
  memory_.trim();
  EXPECT_EQ(driver_.held, 0);
}

// Sizes of all kinds at the limit: no two overlap, and all becomes whole again.
TEST_F(Segments, AtTheLimitPartsStayApartAndJoinAgain) {
  memory_.set_limit(64 * kMiB);
  uint32_t state = 1;
  const auto random = [&](uint32_t below) {
    state = state * 1664525 + 1013904223;
    return (state >> 8) % below;
  };
  std::map<char*, int64_t> held;
  for (int i = 0; i < 20'000; ++i) {
    if (!held.empty() && random(5) < 2) {
      auto one = std::next(held.begin(), random(static_cast<uint32_t>(held.size())));
      memory_.deallocate(one->first);
      held.erase(one);
      continue;
    }
    const int64_t bytes = 1 + random(random(4) == 0 ? 20'000'000 : 1'200'000);
    try {
      auto* data = static_cast<char*>(get(bytes));
      const auto next = held.lower_bound(data);
      ASSERT_TRUE(next == held.end() || data + bytes <= next->first);
      ASSERT_TRUE(next == held.begin() || std::prev(next)->first + std::prev(next)->second <= data);
      held[data] = bytes;
    } catch (const OutOfMemory&) {
      for (int k = 0; k < 3 && !held.empty(); ++k) {
        memory_.deallocate(held.begin()->first);
        held.erase(held.begin());
      }
    }
  }
  for (const auto& [data, bytes] : held) memory_.deallocate(data);
  EXPECT_EQ(memory_.statistics().in_use_bytes, 0);
  memory_.trim();
  EXPECT_EQ(driver_.held, 0);
  EXPECT_EQ(reserved(), 0);
}

// Not in pieces as small as the requests.
TEST_F(Segments, AtTheLimitWhatIsCachedMakesRoomForAWholeSegment) {
  get_and_give_back(60 * kMiB);
  memory_.set_limit(61 * kMiB);
  void* data = get(100);
  EXPECT_EQ(driver_.last, 2 * kMiB);
  EXPECT_EQ(driver_.frees, 1);
  memory_.deallocate(data);
}

// What its graph has worked in is handed out to nobody else, and not given back to the device.
TEST_F(Segments, OthersWaitWhileAThreadIsAlone) {
  void* theirs = get(100 * kMiB);
  memory_.set_limit(reserved() + 40 * kMiB);
  std::atomic<int> done{0};
  std::vector<std::thread> others;
  {
    const Memory::Alone alone(memory_);
    get_and_give_back(30 * kMiB);
    std::thread([&] { memory_.deallocate(theirs); }).join();  // waits for nobody
    others.emplace_back([&] {
      void* data = get(1000);
      ++done;
      memory_.deallocate(data);
    });
    others.emplace_back([&] {
      memory_.trim();
      ++done;
    });
    others.emplace_back([&] {
      memory_.account(1);
      ++done;
      memory_.account(-1);
    });
    EXPECT_THROW(get(120 * kMiB), OutOfMemory);  // for that it would have to give some back
    memory_.trim();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    EXPECT_EQ(done, 0);
    EXPECT_EQ(driver_.frees, 0);
  }
  for (std::thread& other : others) other.join();
  EXPECT_EQ(done, 3);
  void* data = get(120 * kMiB);
  memory_.deallocate(data);
}

}  // namespace
}  // namespace lockstep::cuda
