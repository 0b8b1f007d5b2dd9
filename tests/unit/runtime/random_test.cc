#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "kernel_testing.h"
#include "lockstep/runtime/random/philox.h"

namespace lockstep::testing {
namespace {

TEST(Philox, KnownAnswers) {
  // From the authors' Random123 (kat_vectors, philox4x32 10).
  const auto expect_block = [](philox::Block counter, uint64_t key, philox::Block expected) {
    const philox::Block found = philox::block(counter, key);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(found.words[i], expected.words[i]) << i;
  };
  expect_block({{0, 0, 0, 0}}, 0, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}});
  expect_block({{~0u, ~0u, ~0u, ~0u}}, ~uint64_t{0},
               {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}});
  expect_block({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0x299f31d0a4093822,
               {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}});
}

TEST(Philox, LoopsOfEveryLevelEqualTheFunction) {
  for (cpu::Level level : {cpu::Level::v2, cpu::Level::v3, cpu::Level::v4}) {
    if (!cpu::supported(level)) continue;
    uint32_t words[4 * 37];
    cpu::loops_of(level).philox(0x123456789abcdef0, 0xfffffff0, 7, 8, 9, words, 37);
    for (uint32_t i = 0; i < 37; ++i) {
      const auto block = philox::block({{0xfffffff0 + i, 7, 8, 9}}, 0x123456789abcdef0);
      for (uint32_t w = 0; w < 4; ++w) ASSERT_EQ(words[4 * i + w], block.words[w]);
    }
  }
}

constexpr RandomKey kKey{.seed = 42, .step = 3, .operation = 5, .first_sample = 10};

TEST(Random, DropoutDoesNotDependOnHowTheBatchWasCut) {
  for (auto& level : all_levels()) {
    for (DType dtype : kFloats) {
      const Array x = Array::full({6, 700}, 1, dtype);
      const Array whole = Array::empty({6, 700}, dtype);
      level.kernels.dropout(x.view(), 0.25, kKey, whole.view(), 0);
      RandomKey later = kKey;
      later.first_sample += 4;
      const Array part = Array::empty({2, 700}, dtype);
      level.kernels.dropout(x.narrow(0, 0, 2).view(), 0.25, later, part.view(), 0);
      EXPECT_EQ(doubles(part), doubles(whole.narrow(0, 4, 2)));
    }
  }
}

TEST(Random, DropoutKeepsItsShareAndScales) {
  auto levels = all_levels();
  const Array x = Array::full({50, 4001}, 3, DType::f32);
  const Array y = Array::full({50, 4001}, 1, DType::f32);
  levels[0].kernels.dropout(x.view(), 0.25, kKey, y.view(), 1);
  int64_t kept = 0;
  for (double value : doubles(y)) {
    ASSERT_TRUE(value == 1 || value == 5) << value;
    kept += value == 5;
  }
  EXPECT_NEAR(static_cast<double>(kept) / (50 * 4001), 0.75, 0.005);
  levels[0].kernels.dropout(x.view(), 0, kKey, y.view(), 0);
  EXPECT_EQ(doubles(y), doubles(x));
  levels[0].kernels.dropout(x.view(), 1, kKey, y.view(), 0);
  EXPECT_EQ(doubles(y), std::vector<double>(50 * 4001, 0));
}

TEST(Random, EveryPartOfTheKeyMatters) {
  auto levels = all_levels();
  const Array y = Array::empty({100}, DType::f64);
  const auto draw = [&](RandomKey key) {
    levels[0].kernels.uniform(y.view(), 0, 1, key, 0);
    return doubles(y);
  };
  const auto first = draw(kKey);
  EXPECT_EQ(draw(kKey), first);
  RandomKey other = kKey;
  other.seed += uint64_t{1} << 40;
  EXPECT_NE(draw(other), first);
  other = kKey;
  ++other.step;
  EXPECT_NE(draw(other), first);
  other = kKey;
  ++other.operation;
  EXPECT_NE(draw(other), first);
  other = kKey;
  ++other.first_sample;
  EXPECT_NE(draw(other), first);
}

TEST(Random, FillsAreFunctionsOfTheElement) {
  for (auto& level : all_levels()) {
    const Array whole = Array::empty({5000}, DType::f64);
    const Array part = Array::empty({1234}, DType::f64);
    level.kernels.normal(whole.view(), 1, 2, kKey, 0);
    level.kernels.normal(part.view(), 1, 2, kKey, 777);
    EXPECT_EQ(doubles(part), doubles(whole.narrow(0, 777, 1234)));
    const Array rounded = Array::empty({5000}, DType::f32);
    level.kernels.normal(rounded.view(), 1, 2, kKey, 0);
    expect_near(doubles(rounded), doubles(whole), 0x1p-24, 0, level.name);
  }
}

TEST(Random, LevelsAgreeBitForBit) {
  std::vector<double> first;
  for (auto& level : all_levels()) {
    const Array y = Array::empty({3000}, DType::f64);
    level.kernels.normal(y.view(), 0, 1, kKey, 0);
    if (first.empty()) first = doubles(y);
    EXPECT_EQ(doubles(y), first) << level.name;
  }
}

TEST(Random, MomentsAndRange) {
  auto levels = all_levels();
  const int64_t n = 200'000;
  const Array y = Array::empty({n}, DType::f32);
  levels[0].kernels.uniform(y.view(), -1, 3, kKey, 0);
  double sum = 0, square = 0;
  for (double value : doubles(y)) {
    ASSERT_GE(value, -1);
    ASSERT_LT(value, 3);
    sum += value;
  }
  EXPECT_NEAR(sum / n, 1, 0.01);
  levels[0].kernels.normal(y.view(), 1, 2, kKey, 0);
  sum = 0;
  for (double value : doubles(y)) sum += value;
  for (double value : doubles(y)) square += (value - 1) * (value - 1);
  EXPECT_NEAR(sum / n, 1, 0.02);
  EXPECT_NEAR(square / n, 4, 0.05);
}

// Rounded to 16 bits, values just below the upper end would be it.
TEST(Random, UniformValuesStayBelowTheUpperEnd) {
  struct Range {
    double low, high, last[4];  // the largest value below `high`, of each of kFloats
  };
  const double any = std::numeric_limits<double>::quiet_NaN();
  const Range ranges[] = {{0, 1, {any, any, 1 - 0x1p-8, 1 - 0x1p-11}},
                          {-1, 3, {any, any, 3 - 0x1p-6, 3 - 0x1p-9}},
                          {-3, -1, {any, any, -1 - 0x1p-7, -1 - 0x1p-10}},
                          {0.5, 0.7, {any, any, 0.69921875, 0.69970703125}},
                          {-0x1p-10, 0, {any, any, any, -0x1p-24}},
                          {0, 1e5, {any, any, 99840, 65504}}};
  auto levels = all_levels();
  for (const Range& range : ranges) {
    for (int i = 0; i < 4; ++i) {
      const Array y = Array::empty({200'000}, kFloats[i]);
      levels[0].kernels.uniform(y.view(), range.low, range.high, kKey, 0);
      double largest = range.low;
      for (double value : doubles(y)) {
        ASSERT_GE(value, range.low - std::abs(range.low) * 0x1p-8);
        ASSERT_LT(value, range.high);
        largest = std::max(largest, value);
      }
      if (!std::isnan(range.last[i])) EXPECT_EQ(largest, range.last[i]) << name_of(kFloats[i]);
    }
  }
}

}  // namespace
}  // namespace lockstep::testing
