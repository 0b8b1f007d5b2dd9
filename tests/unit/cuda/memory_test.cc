#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "lockstep/runtime/context.h"
#include "support/device_check.h"

namespace lockstep {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

// Where the memory of one test does not show in another's.
class CudaMemory : public testing::Test {
 protected:
  CudaMemory() { backend_.trim(); }
  ~CudaMemory() override {
    backend_.set_limit(0);
    backend_.trim();
  }
  Array bytes(int64_t count) { return Array::empty({count}, DType::u8, test::device()); }

  Backend& backend_ = backend_of(test::device());
};

TEST_F(CudaMemory, CopiesThereAndBack) {
  const Array host = test::values({1000}, DType::f64, -1, 1);
  EXPECT_EQ(test::on_host(test::on_device(host)).to_vector<double>(), host.to_vector<double>());
}

TEST_F(CudaMemory, IsAlignedAndCounted) {
  const MemoryStatistics before = backend_.statistics();
  {
    const Array a = bytes(100), b = bytes(5 * kMiB), c = bytes(30 * kMiB);
    for (const Array* x : {&a, &b, &c}) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(x->data()) % 512, 0u);
    }
    const MemoryStatistics now = backend_.statistics();
    EXPECT_EQ(now.in_use_bytes - before.in_use_bytes, 512 + 35 * kMiB);
    EXPECT_GE(now.reserved_bytes, now.in_use_bytes);
    EXPECT_EQ(now.allocations - before.allocations, 3);
  }
  EXPECT_EQ(backend_.statistics().in_use_bytes, before.in_use_bytes);
  backend_.trim();
  EXPECT_EQ(backend_.statistics().reserved_bytes, before.reserved_bytes);
}

// What was freed serves other sizes: neighbours become one block again.
TEST_F(CudaMemory, FreedNeighboursServeALargerBlock) {
  std::vector<Array> parts;
  for (int i = 0; i < 4; ++i) parts.push_back(bytes(4 * kMiB));
  const int64_t reserved = backend_.statistics().reserved_bytes;
  parts.erase(parts.begin() + 1);
  parts.erase(parts.begin() + 1);
  const Array joined = bytes(8 * kMiB);
  EXPECT_EQ(backend_.statistics().reserved_bytes, reserved);
}

TEST_F(CudaMemory, RepeatedStepsTakeNothingNewFromTheDevice) {
  const auto step = [&] {
    std::vector<Array> held;
    for (int64_t size : {3, 700, 5000, 70000, 900000, 3000000, 11000000, 50000000}) {
      held.push_back(bytes(size));
      const Array passing = bytes(size * 2);
    }
  };
  step();
  const int64_t taken = backend_.statistics().system_allocations;
  for (int i = 0; i < 10; ++i) step();
  EXPECT_EQ(backend_.statistics().system_allocations, taken);
}

// A step's largest block stays whole for the next step when smaller ones that live long come
// between; where the device has no more, they get of it.
TEST_F(CudaMemory, WhatLivesLongIsNotCutOutOfALargeBlock) {
  backend_.set_limit(backend_.statistics().reserved_bytes + 450 * kMiB);
  bytes(400 * kMiB);
  const Array state = bytes(40 * kMiB);
  EXPECT_NO_THROW(bytes(400 * kMiB));
  bytes(100 * kMiB);  // it may have a fourth
  const int64_t reserved = backend_.statistics().reserved_bytes;
  EXPECT_EQ(reserved, backend_.statistics().in_use_bytes + 400 * kMiB);
  backend_.set_limit(reserved + 1 * kMiB);
  const Array whole = bytes(300 * kMiB), rest = bytes(50 * kMiB);
  EXPECT_EQ(backend_.statistics().reserved_bytes, reserved);
}

// Sequences of other lengths in turn, and a state that is made after the first step: what the
// device is asked for beyond what is in use.
TEST_F(CudaMemory, StepsOfOtherSizesFindTheirMemoryAgain) {
  const int64_t before = backend_.statistics().reserved_bytes;
  int64_t needed = 0, taken = 0;
  const auto step = [&](int64_t size) {
    std::vector<Array> held;
    for (int layer = 0; layer < 6; ++layer) {
      held.push_back(bytes(size * kMiB));
      held.push_back(bytes(4 * size * kMiB));
      const Array passing = bytes(size * kMiB);
    }
    const Array logits = bytes(24 * size * kMiB), gradient = bytes(24 * size * kMiB);
    needed = std::max(needed, backend_.statistics().in_use_bytes);
    taken = std::max(taken, backend_.statistics().reserved_bytes - before);
  };
  step(16);
  const Array moments = bytes(40 * kMiB), squares = bytes(40 * kMiB);
  for (int64_t size : {16, 4, 16, 4, 16, 4, 16}) step(size);
  EXPECT_LE(static_cast<double>(taken), 1.1 * static_cast<double>(needed));
}

TEST_F(CudaMemory, TheErrorSaysWhoHoldsWhat) {
  backend_.set_limit(backend_.statistics().reserved_bytes + 64 * kMiB);
  Array held;
  {
    const Operation operation("gelu");
    held = bytes(40 * kMiB);
  }
  const Operation operation("matmul");
  try {
    bytes(50 * kMiB);
    FAIL() << "expected an error";
  } catch (const OutOfMemory& error) {
    EXPECT_THAT(error.what(),
                testing::HasSubstr("out of memory on cuda:0: matmul asked for 50 MiB"));
    EXPECT_THAT(error.what(), testing::HasSubstr("the limit is"));
    EXPECT_THAT(error.what(), testing::HasSubstr("held by gelu 40 MiB in 1"));
  }
  held = Array();
  EXPECT_NO_THROW(bytes(50 * kMiB));
}

// What is cached goes back before anybody is refused.
TEST_F(CudaMemory, CachedMemoryIsGivenBackForAnotherSize) {
  backend_.set_limit(backend_.statistics().reserved_bytes + 64 * kMiB);
  bytes(60 * kMiB);
  EXPECT_NO_THROW(bytes(50 * kMiB));
  EXPECT_THROW(bytes(70 * kMiB), OutOfMemory);
}

TEST_F(CudaMemory, BroughtMemoryCounts) {
  backend_.set_limit(backend_.statistics().reserved_bytes + 64 * kMiB);
  backend_.account(60 * kMiB);
  EXPECT_THROW(bytes(10 * kMiB), OutOfMemory);
  EXPECT_THROW(backend_.account(10 * kMiB), OutOfMemory);
  backend_.account(-60 * kMiB);
  EXPECT_NO_THROW(bytes(10 * kMiB));
}

TEST_F(CudaMemory, MoreThanAnyDeviceHas) { EXPECT_THROW(bytes(int64_t{1} << 50), OutOfMemory); }

}  // namespace
}  // namespace lockstep
