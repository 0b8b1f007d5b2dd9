#include "lockstep/collectives/reduce_cpu.h"

#include <gtest/gtest.h>

#include <vector>

#include "lockstep/runtime/error.h"

namespace lockstep {
namespace {

TEST(ReduceCpu, AnOutputMayBeAnInput) {
  std::vector<double> a(5000, 1);
  std::vector<double> b(5000, 2);
  const void* inputs[] = {a.data(), b.data()};
  void* outputs[] = {b.data(), a.data()};
  reduce_in_order(ReduceOp::mean, DType::f64, inputs, outputs, 5000);
  EXPECT_EQ(a, std::vector<double>(5000, 1.5));
  EXPECT_EQ(b, a);
}

TEST(ReduceCpu, SmallIntegersWrapAround) {
  uint8_t a = 200;
  uint8_t b = 100;
  const void* inputs[] = {&a, &b};
  void* outputs[] = {&a};
  reduce_in_order(ReduceOp::sum, DType::u8, inputs, outputs, 1);
  EXPECT_EQ(a, 44);
}

TEST(ReduceCpu, HalvesWidenAndNarrow) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const std::vector<float> values = {0, 1, -2.5, 96, 0.125};
    std::vector<uint16_t> halves(values.size());
    narrow(dtype, values.data(), halves.data(), 5);
    std::vector<float> back(values.size());
    widen(dtype, halves.data(), back.data(), 5);
    EXPECT_EQ(back, values);
    scale(dtype, halves.data(), 5, 0.5);
    widen(dtype, halves.data(), back.data(), 5);
    EXPECT_EQ(back, (std::vector<float>{0, 0.5, -1.25, 48, 0.0625}));
  }
}

TEST(ReduceCpu, RefusesWhatIsNoNumber) {
  bool flag = true;
  const void* inputs[] = {&flag};
  void* outputs[] = {&flag};
  EXPECT_THROW(reduce_in_order(ReduceOp::max, DType::boolean, inputs, outputs, 1), Error);
  int32_t integer = 1;
  EXPECT_THROW(scale(DType::i32, &integer, 1, 0.5), Error);
  float wide = 0;
  EXPECT_THROW(widen(DType::f32, &wide, &wide, 1), Error);
}

}  // namespace
}  // namespace lockstep
