#include "lockstep/runtime/cpu/level.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "lockstep/runtime/error.h"

namespace lockstep::cpu {
namespace {

class LevelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const char* value = std::getenv("LOCKSTEP_ISA")) before_ = value;
  }
  void TearDown() override {
    before_.empty() ? unsetenv("LOCKSTEP_ISA") : setenv("LOCKSTEP_ISA", before_.c_str(), 1);
  }

 private:
  std::string before_;
};

TEST_F(LevelTest, TheEnvironmentForcesOne) {
  for (Level level : {Level::v2, Level::v3, Level::v4}) {
    setenv("LOCKSTEP_ISA", name_of(level), 1);
    if (supported(level)) {
      EXPECT_EQ(chosen_level(), level);
    } else {
      EXPECT_THROW(chosen_level(), UsageError);
    }
  }
}

TEST_F(LevelTest, OtherValuesAreNamedInTheError) {
  setenv("LOCKSTEP_ISA", "avx9", 1);
  try {
    chosen_level();
    FAIL() << "no error";
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("avx9"), std::string::npos) << error.what();
  }
}

TEST_F(LevelTest, WithoutItTheHighest) {
  unsetenv("LOCKSTEP_ISA");
  EXPECT_TRUE(supported(chosen_level()));
  EXPECT_EQ(chosen_level() == Level::v4, supported(Level::v4));
}

}  // namespace
}  // namespace lockstep::cpu
