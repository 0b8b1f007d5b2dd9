#include "lockstep/runtime/cuda/plan_cache.h"

#include <gtest/gtest.h>

namespace lockstep::cuda {
namespace {

struct FakePlan {
  int number = 0;
  bool captured = false;
};

// A library whose plans are numbered, and a device that may be short of memory.
struct FakeLibrary {
  PlanCache<FakePlan> plans{8};
  bool knows_it = true;
  bool is_short = false;
  int rooms = 0;  // that were made: then it is not short any more, if it can
  bool can_make_room = true;
  int asked = 0;

  FakePlan* find(int64_t problem) {
    return plans.find(
        {problem},
        [&]() -> std::unique_ptr<FakePlan> {
          ++asked;
          if (is_short || !knows_it) return nullptr;
          return std::make_unique<FakePlan>(FakePlan{asked});
        },
        [&] { return is_short; },
        [&] {
          ++rooms;
          if (can_make_room) is_short = false;
        });
  }
};

TEST(PlanCache, RefusalsAreRememberedLikePlans) {
  FakeLibrary library;
  EXPECT_EQ(library.find(1)->number, 1);
  EXPECT_EQ(library.find(1)->number, 1);
  library.knows_it = false;
  EXPECT_EQ(library.find(2), nullptr);
  EXPECT_EQ(library.find(2), nullptr);
  EXPECT_EQ(library.asked, 2);
  EXPECT_EQ(library.rooms, 0);
}

TEST(PlanCache, WhereMemoryIsShortRoomIsMade) {
  FakeLibrary library;
  library.is_short = true;
  EXPECT_EQ(library.find(1)->number, 2);
  EXPECT_EQ(library.rooms, 1);
}

TEST(PlanCache, WhatFailsForWantOfMemoryIsNoRefusal) {
  FakeLibrary library;
  library.is_short = true;
  library.can_make_room = false;
  EXPECT_EQ(library.find(1), nullptr);
  library.is_short = false;
  ASSERT_NE(library.find(1), nullptr);
}

TEST(PlanCache, TheHalfThatWasUsedLongestAgoIsForgotten) {
  FakeLibrary library;
  for (int problem = 0; problem < 8; ++problem) library.find(problem);
  library.find(0);
  library.find(1)->captured = true;
  for (int problem = 4; problem < 8; ++problem) library.find(problem);
  library.find(8);
  EXPECT_LE(library.plans.size(), 6u);
  const int asked = library.asked;
  for (int problem : {4, 5, 6, 7, 8}) library.find(problem);
  EXPECT_EQ(library.find(1)->number, 2);  // a graph of the device may run it
  EXPECT_EQ(library.asked, asked);
  for (int problem = 100; problem < 1000; ++problem) library.find(problem);
  EXPECT_LE(library.plans.size(), 9u);
  EXPECT_EQ(library.find(1)->number, 2);
}

View view_of(int64_t batch_stride, int64_t head_stride) {
  View view;
  view.rank = 4;
  const int64_t shape[] = {1, 1, 16, 8}, strides[] = {batch_stride, head_stride, 24, 1};
  std::copy_n(shape, 4, view.shape);
  std::copy_n(strides, 4, view.strides);
  view.dtype = DType::bf16;
  return view;
}

// Where a batch of one was cut from is none of the plan's business.
TEST(PlanCache, StridesOfDimensionsOfOneMakeNoOtherPlan) {
  PlanKey packed, cut;
  append(packed, view_of(128, 128));
  append(cut, view_of(99999, 8));
  EXPECT_EQ(packed, cut);
  EXPECT_EQ(plan_strides(view_of(99999, 8)), (std::vector<int64_t>{384, 384, 24, 1}));
  View other = view_of(128, 128);
  other.strides[2] = 8;
  PlanKey others;
  append(others, other);
  EXPECT_NE(packed, others);
}

}  // namespace
}  // namespace lockstep::cuda
