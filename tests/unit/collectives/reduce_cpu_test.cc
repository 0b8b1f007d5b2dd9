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

template <class T>
void check_half_scale() {
  std::vector<T> halves;
  for (float value : {0.f, 1.f, -2.5f, 96.f, 0.125f}) halves.push_back(T(value));
  scale(dtype_of<T>, halves.data(), 5, 0.5);
  const std::vector<float> expected = {0, 0.5, -1.25, 48, 0.0625};
  for (size_t i = 0; i < 5; ++i) EXPECT_EQ(static_cast<float>(halves[i]), expected[i]);
}

TEST(ReduceCpu, ScalesHalves) {
  check_half_scale<BFloat16>();
  check_half_scale<Float16>();
}

TEST(ReduceCpu, RefusesWhatIsNoNumber) {
  bool flag = true;
  const void* inputs[] = {&flag};
  void* outputs[] = {&flag};
  EXPECT_THROW(reduce_in_order(ReduceOp::max, DType::boolean, inputs, outputs, 1), Error);
  int32_t integer = 1;
  EXPECT_THROW(scale(DType::i32, &integer, 1, 0.5), Error);
}

}  // namespace
}  // namespace lockstep
