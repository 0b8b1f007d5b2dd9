#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/context.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "lockstep/runtime/ops/matmul.h"
#include "lockstep/runtime/ops/rows.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

// Who the error of running out of memory in `act` names.
template <class F>
std::string error_of(const F& act) {
  Backend& cpu = backend_of({});
  cpu.trim();  // what is cached would serve
  cpu.set_limit(cpu.statistics().in_use_bytes + (1 << 20));
  std::string message = "no error";
  try {
    act();
  } catch (const OutOfMemory& error) {
    message = error.what();
  }
  cpu.set_limit(0);
  return message;
}

TEST(Operation, TheErrorOfRunningOutOfMemoryNamesTheOp) {
  const Array x = Array::zeros({1000, 1}, DType::f32), y = Array::zeros({1, 1000}, DType::f32);
  EXPECT_THAT(error_of([&] { kernels::matmul(x, y); }),
              HasSubstr("matmul asked for 4000000 bytes"));
  EXPECT_THAT(error_of([&] {
                kernels::softmax(x.expand({1000, 1000}), false);
              }),
              HasSubstr("softmax asked for 4000000 bytes"));
  EXPECT_THAT(error_of([&] {
                kernels::copy(x.expand({1000, 1000}));
              }),
              HasSubstr("copy asked for 4000000 bytes"));
}

TEST(Operation, TheOutermostCountsAndAPurposeAlways) {
  EXPECT_EQ(context().operation, nullptr);
  {
    const Operation outer("outer");
    const Operation inner("inner");
    EXPECT_STREQ(context().operation, "outer");
    {
      const Purpose purpose("parameters");
      EXPECT_STREQ(context().operation, "parameters");
      const Operation within("within");
      EXPECT_STREQ(context().operation, "parameters");
    }
    EXPECT_STREQ(context().operation, "outer");
  }
  EXPECT_EQ(context().operation, nullptr);
}

}  // namespace
}  // namespace lockstep
