#include "lockstep/runtime/log.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace lockstep {
namespace {

class LogTest : public ::testing::Test {
 protected:
  void TearDown() override { ::unsetenv("LOCKSTEP_LOG_LEVEL"); }

  // What all levels write, one line each.
  static std::string written_with(const char* level) {
    ::setenv("LOCKSTEP_LOG_LEVEL", level, 1);
    ::testing::internal::CaptureStderr();
    log(LogLevel::error, {"e", 1});
    log(LogLevel::warning, {"w", 2});
    log(LogLevel::info, {"i", 3});
    log(LogLevel::debug, {"d", 4});
    return ::testing::internal::GetCapturedStderr();
  }
};

TEST_F(LogTest, WritesTheLevelAskedForAndThoseBeforeIt) {
  EXPECT_EQ(written_with("error"), "lockstep: e1\n");
  EXPECT_EQ(written_with("warning"), "lockstep: e1\nlockstep: w2\n");
  EXPECT_EQ(written_with(""), "lockstep: e1\nlockstep: w2\n");
  EXPECT_EQ(written_with("info"), "lockstep: e1\nlockstep: w2\nlockstep: i3\n");
  EXPECT_EQ(written_with("debug"), "lockstep: e1\nlockstep: w2\nlockstep: i3\nlockstep: d4\n");
}

TEST_F(LogTest, RefusesWhatIsNoLevel) {
  ::setenv("LOCKSTEP_LOG_LEVEL", "loud", 1);
  try {
    log(LogLevel::error, {"text"});
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_STREQ(error.what(),
                 "LOCKSTEP_LOG_LEVEL is 'loud': expected error, warning, info or debug");
  }
}

}  // namespace
}  // namespace lockstep
