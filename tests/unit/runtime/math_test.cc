#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <string>

#include "functor_cases.h"

namespace lockstep::math {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
// Away from every listed functor's corners: integers, 0, clamp's bounds.
constexpr double kPoints[] = {-2.3, -1.1, -0.7, -0.15, 0.2, 0.45, 0.6, 1.4, 1.9, 3.1};
constexpr double kStep = 1e-6;

void expect_derivative(double derivative, double above, double below, const std::string& what) {
  if (std::isnan(above) || std::isnan(below)) return;  // outside the domain
  const double difference = (above - below) / (2 * kStep);
  EXPECT_NEAR(derivative, difference, 1e-7 * (1 + std::abs(difference))) << what;
}

TEST(Math, UnaryDerivativesEqualFiniteDifferences) {
  for (const auto& f : testing::unary_cases()) {
    for (double x : kPoints) {
      expect_derivative(f.grad(x, f.value(x)), f.value(x + kStep), f.value(x - kStep),
                        std::string(f.name) + " at " + std::to_string(x));
    }
  }
}

TEST(Math, BinaryDerivativesEqualFiniteDifferences) {
  for (const auto& f : testing::binary_cases()) {
    for (double a : kPoints) {
      for (double b : kPoints) {
        if (a == b) continue;
        const double out = f.value(a, b);
        const std::string what = std::string(f.name) + " at " + std::to_string(a) + ", " +
                                 std::to_string(b) + ", operand ";
        expect_derivative(f.grad[0](a, b, out), f.value(a + kStep, b), f.value(a - kStep, b),
                          what + "0");
        expect_derivative(f.grad[1](a, b, out), f.value(a, b + kStep), f.value(a, b - kStep),
                          what + "1");
      }
    }
  }
}

// What `reads_of` says is not read may be anything.
TEST(Math, DerivativesReadWhatTheyDeclare) {
  for (const auto& f : testing::unary_cases()) {
    const double x = 0.6;
    const double y = f.value(x);
    const double expected = f.grad(x, y);
    EXPECT_EQ(f.grad(f.reads.a ? x : kNan, f.reads.out ? y : kNan), expected) << f.name;
    EXPECT_TRUE(!f.reads.is_one || expected == 1) << f.name;
    EXPECT_TRUE(!f.reads.is_zero || expected == 0) << f.name;
    EXPECT_FALSE(f.reads.b) << f.name;
  }
  for (const auto& f : testing::binary_cases()) {
    for (int operand : {0, 1}) {
      const Reads& reads = f.reads[operand];
      const double a = 0.6;
      const double b = 1.4;
      const double out = f.value(a, b);
      const double expected = f.grad[operand](a, b, out);
      EXPECT_EQ(f.grad[operand](reads.a ? a : kNan, reads.b ? b : kNan, reads.out ? out : kNan),
                expected)
          << f.name;
      EXPECT_TRUE(!reads.is_one || expected == 1) << f.name;
    }
  }
}

TEST(Math, ReadsOfSomeKnownDerivatives) {
  static_assert(reads_of<Exp>().out && !reads_of<Exp>().a);
  static_assert(reads_of<Sin>().a && !reads_of<Sin>().out);
  static_assert(reads_of<AddScalar>().is_one);
  static_assert(reads_of<Floor>().is_zero);
  static_assert(!reads_of<Neg>().is_one && !reads_of<Neg>().a && !reads_of<Neg>().out);
  static_assert(reads_of<Mul>(0).b && !reads_of<Mul>(0).a);
  static_assert(reads_of<Add>(1).is_one && !reads_of<Sub>(1).is_one);
}

TEST(Math, NamesAndIndicesAreUnique) {
  std::set<std::string> names;
  int index = 0;
  for (const auto& f : testing::unary_cases()) {
    EXPECT_TRUE(names.insert(f.name).second) << f.name;
    EXPECT_EQ(f.index, index++) << f.name;
  }
  for (const auto& f : testing::binary_cases()) EXPECT_TRUE(names.insert(f.name).second) << f.name;
  for (const auto& f : testing::compare_cases()) EXPECT_TRUE(names.insert(f.name).second) << f.name;
}

TEST(Math, CornersFollowPyTorch) {
  EXPECT_EQ(Abs{}.grad(0.0, 0.0)[0], 0);
  EXPECT_EQ(Relu{}.grad(0.0, 0.0)[0], 0);
  EXPECT_EQ((Clamp{-1, 1}.grad(1.0, 1.0)[0]), 0);
  EXPECT_EQ((Clamp{-1, 1}.grad(-1.0, -1.0)[0]), 0);
  EXPECT_EQ((Clamp{2, 1}(0.0)), 1);
  EXPECT_EQ(LeakyRelu{0.1}.grad(0.0, 0.0)[0], 0.1);
  EXPECT_EQ(Maximum{}.grad(2.0, 2.0, 2.0)[0], 0.5);
  EXPECT_EQ(Minimum{}.grad(2.0, 2.0, 2.0)[1], 0.5);
  EXPECT_EQ(Round{}(0.5), 0);
  EXPECT_EQ(Round{}(1.5), 2);
  EXPECT_EQ(Round{}(-2.5), -2);
  EXPECT_EQ(Pow{}(0.0, 0.0), 1);
  EXPECT_EQ(Pow{}(kNan, 0.0), 1);
  EXPECT_EQ(Pow{}.grad(0.0, 0.0, 1.0)[0], 0);
  EXPECT_EQ(Pow{}.grad(0.0, 2.0, 0.0)[1], 0);
  EXPECT_EQ(PowScalar{0}.grad(0.0, 1.0)[0], 0);
  EXPECT_EQ(Atan2{}.grad(0.0, 0.0, 0.0)[0], 0);
}

TEST(Math, NanPassesThrough) {
  EXPECT_TRUE(std::isnan(Relu{}(kNan)));
  EXPECT_TRUE(std::isnan((Clamp{-1, 1}(kNan))));
  EXPECT_TRUE(std::isnan(Maximum{}(kNan, 1.0)));
  EXPECT_TRUE(std::isnan(Maximum{}(1.0, kNan)));
  EXPECT_TRUE(std::isnan(Minimum{}(kNan, 1.0)));
  EXPECT_TRUE(std::isnan(Minimum{}(1.0, kNan)));
}

TEST(Math, GeluTanhKeepsItsDigitsInTheTail) {
  // x sigmoid(2u) far to the left, where 1 + tanh(u) would have cancelled.
  const double u = std::sqrt(2 / M_PI) * (-6 + 0.044715 * -216);
  EXPECT_NEAR(GeluTanh{}(-6.0) / (-6 * std::exp(2 * u) / (1 + std::exp(2 * u))), 1, 1e-12);
}

}  // namespace
}  // namespace lockstep::math
