#include "lockstep/collectives/activity.h"

#include <gtest/gtest.h>

#include "lockstep/collectives/communicator.h"
#include "lockstep/runtime/error.h"

namespace lockstep {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kTimeout{1000};
constexpr milliseconds kLong{60000};

TEST(ActivityTest, TheInnermostPhaseCounts) {
  Activity activity;
  EXPECT_EQ(activity.now().describe(), "step 0, phase idle");
  activity.set_step(7);
  {
    const Activity::Phase outer(activity, "validation");
    {
      const Activity::Phase inner(activity, "data");
      EXPECT_EQ(activity.now().describe(), "step 7, phase data");
    }
    EXPECT_EQ(activity.now().phase, "validation");
  }
  EXPECT_EQ(activity.now().phase, "idle");
}

TEST(ActivityTest, AFailureIsKnownByThePhaseThatItLeft) {
  Activity activity;
  try {
    const Activity::Phase outer(activity, "validation", kLong);
    const Activity::Phase inner(activity, "data");
    fail({"the file ends early"});
  } catch (const Error&) {
    EXPECT_EQ(activity.now().phase, "data");
  }
  {
    const Activity::Phase next(activity, "reduction");
    EXPECT_EQ(activity.now().phase, "reduction");
  }
  EXPECT_EQ(activity.now().phase, "idle");
}

// A destructor that runs while an exception is on its way, say.
TEST(ActivityTest, APhaseThatBeginsDuringAFailureEndsLikeAnyOther) {
  Activity activity;
  struct CleansUp {
    Activity& activity;
    ~CleansUp() { const Activity::Phase phase(activity, "cleaning"); }
  };
  try {
    const CleansUp cleans_up{activity};
    fail({"the file ends early"});
  } catch (const Error&) {
    EXPECT_EQ(activity.now().phase, "idle");
  }
}

TEST(ActivityTest, TheLongestAllowanceHoldsAndATimeoutAfterIt) {
  Activity activity;
  EXPECT_EQ(activity.allowance(kTimeout).count(), 0);
  {
    const Activity::Phase outer(activity, "validation", kLong);
    const Activity::Phase inner(activity, "data", milliseconds(10));
    EXPECT_GT(activity.allowance(kTimeout), kLong / 2);
  }
  EXPECT_GT(activity.allowance(kTimeout), kTimeout / 2);
  EXPECT_LE(activity.allowance(kTimeout), kTimeout);
  EXPECT_EQ(activity.allowance(milliseconds(0)).count(), 0);
}

TEST(ActivityTest, ACollectiveThatFailsSaysWhen) {
  const auto alone = make_single_communicator();
  alone->activity().set_step(3);
  const Activity::Phase phase(alone->activity(), "backward");
  const auto part = alone->split(0, 0);
  part->abort("enough");
  try {
    part->barrier({.what = "gradients", .bucket = 2}).wait();
    FAIL() << "nothing was thrown";
  } catch (const CollectiveError& error) {
    EXPECT_NE(std::string(error.what()).find(", on rank 0 of 1, step 3, phase backward: enough"),
              std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace lockstep
