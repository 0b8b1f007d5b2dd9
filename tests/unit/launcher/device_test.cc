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
