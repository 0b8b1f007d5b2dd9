#include "lockstep/launcher/train/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "lockstep/runtime/error.h"

namespace lockstep::train {
namespace {

// With no library of the device to be found.
class ChooseDevice : public testing::Test {
 protected:
  ChooseDevice() { setenv("LOCKSTEP_PLUGIN_DIR", "/missing", 1); }
  ~ChooseDevice() override { unsetenv("LOCKSTEP_PLUGIN_DIR"); }
};

TEST_F(ChooseDevice, TheCpuAlways) { EXPECT_EQ(choose_device("cpu", {}), Device()); }

TEST_F(ChooseDevice, AutoFallsBackOnTheCpu) { EXPECT_EQ(choose_device("auto", {}), Device()); }

// What auto decides must be the same on all ranks of a host.
TEST(ReasonForCpu, SpeaksOfPlacesToMeetAndOfGpusTooFew) {
  const auto variables = [](std::string names) {
    return [names](const char* name) { return names.find(name) != names.npos ? "set" : nullptr; };
  };
  const World alone, four{.rank = 2, .size = 4, .local_rank = 2, .local_size = 4};
  EXPECT_EQ(reason_for_cpu(alone, 1, variables("")), "");
  EXPECT_THAT(reason_for_cpu(four, 4, variables("")), testing::HasSubstr("MASTER_ADDR"));
  EXPECT_EQ(reason_for_cpu(four, 4, variables("LOCKSTEP_STORE")), "");
  EXPECT_EQ(reason_for_cpu(four, 8, variables("MASTER_ADDR")), "");
  EXPECT_EQ(reason_for_cpu(four, 2, variables("LOCKSTEP_STORE")), "this host's 4 ranks see 2 GPUs");
  EXPECT_EQ(reason_for_cpu(four, 1, variables("LOCKSTEP_STORE")), "this host's 4 ranks see 1 GPUs");
  EXPECT_EQ(reason_for_cpu(four, 1, variables("LOCKSTEP_STORE CUDA_VISIBLE_DEVICES")), "");
}

TEST(ReasonForCpu, DoesNotTakeRanksOfSeveralHostsForOnes) {
  const auto master = [](const char* name) {
    return std::string_view(name) == "MASTER_ADDR" ? "set" : nullptr;
  };
  World unknown{.rank = 9, .size = 16, .local_rank = 1, .local_size = 16};
  unknown.local_size_known = false;
  EXPECT_EQ(reason_for_cpu(unknown, 8, master), "");
  EXPECT_THAT(reason_for_cpu(unknown, 1, master), testing::HasSubstr("LOCAL_WORLD_SIZE"));
  unknown.mpi = true;  // which could run on CPUs, too
  EXPECT_THAT(reason_for_cpu(unknown, 8, master), testing::HasSubstr("LOCAL_WORLD_SIZE"));
  EXPECT_EQ(reason_for_cpu(unknown, 16, master), "");
}

TEST_F(ChooseDevice, CudaIsAUsageErrorThatSaysWhatIsMissing) {
  try {
    choose_device("cuda", {});
    FAIL() << "no error";
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("--device cuda: "));
    EXPECT_THAT(error.what(), testing::HasSubstr("/missing/liblockstep_cuda.so"));
  }
}

}  // namespace
}  // namespace lockstep::train
