#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <string>

#include "functor_cases.h"

namespace lockstep::math {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Away from every listed functor's corners: integers, 0, clamp's bounds.
constexpr double kPoints[] = {-2.3, -1.1, -0.7, -0.15, 0.2, 0.45, 0.6, 1.4, 1.9, 3.1};
constexpr double kStep = 1e-6;

void expect_derivative(double derivative, double above, double below, const std::string& what) {
  if (std::isnan(above) || std::isnan(below)) return;  // outside the domain
  const double difference = (above - below) / (2 * kStep);
  EXPECT_NEAR(derivative, difference, 1e-7 * (1 + std::abs(difference))) << what;
}

// Where quotients and remainders step.
bool near_whole(double quotient) { return std::abs(quotient - std::rint(quotient)) < 1e-3; }

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
        if (a == b || near_whole(a / b)) continue;
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

TEST(Math, CornersOfActivationsFollowPyTorch) {
  EXPECT_EQ((Elu{0.5}.grad(0.0, 0.0)[0]), 0.5);
  EXPECT_EQ((Elu{-0.5}(-1.0)), -0.5 * std::expm1(-1.0));
  EXPECT_EQ(Selu{}.grad(0.0, 0.0)[0], Selu::kScale * Selu::kAlpha);
  EXPECT_EQ((Celu{2}.grad(0.0, 0.0)[0]), 1);
  EXPECT_EQ((HardTanh{-1, 1}.grad(1.0, 1.0)[0]), 0);
  EXPECT_EQ((HardTanh{-1, 1}.grad(-1.0, -1.0)[0]), 0);
  EXPECT_EQ((HardTanh{-1, 1}.grad(kNan, kNan)[0]), 1);
  EXPECT_EQ((Clamp{-1, 1}.grad(kNan, kNan)[0]), 0);
  EXPECT_EQ(HardSwish{}.grad(-3.0, 0.0)[0], 0);
  EXPECT_EQ(HardSwish{}.grad(3.0, 3.0)[0], 1);
  EXPECT_EQ(HardSigmoid{}.grad(3.0, 1.0)[0], 0);
  EXPECT_EQ(HardSigmoid{}.grad(-3.0, 0.0)[0], 0);
  EXPECT_EQ(Softsign{}.grad(0.0, 0.0)[0], 1);
  EXPECT_EQ((Softplus{1, 20}(20.5)), 20.5);
  EXPECT_NEAR((Softplus{1, 20}(20.0)), 20.000000002061153, 1e-14);
  EXPECT_EQ((Softplus{2, 3}(1.5)), std::log1p(std::exp(3.0)) / 2);
  EXPECT_EQ((Softplus{2, 3}(1.6)), 1.6);
}

TEST(Math, QuotientsAndRemaindersFollowPyTorch) {
  EXPECT_EQ(Fmod{}(-7.0, 2.0), -1);
  EXPECT_EQ(Remainder{}(-7.0, 2.0), 1);
  EXPECT_EQ(Remainder{}(7.0, -2.0), -1);
  EXPECT_EQ(Remainder{}(-1.0, kInfinity), kInfinity);
  EXPECT_TRUE(std::isnan(Fmod{}(1.0, 0.0)));
  EXPECT_EQ(FloorDivide{}(-7.0, 2.0), -4);
  EXPECT_EQ(TruncDivide{}(-7.0, 2.0), -3);
  EXPECT_EQ(FloorDivide{}(1.0, 0.0), kInfinity);
  EXPECT_EQ(FloorDivide{}(-1.0, kInfinity), -1);
  EXPECT_TRUE(std::isnan(FloorDivide{}(kInfinity, 1.0)));
  // 1 / 0.1 rounds to 10, which ten times 0.1 (a little more than a tenth) does not reach.
  EXPECT_EQ(FloorDivide{}(1.0, 0.1), 9);
  EXPECT_EQ(Remainder{}.grad(1.0, 0.1, 0.0)[1], -9);
  EXPECT_EQ(Fmod{}.grad(-7.0, 2.0, -1.0)[1], 3);
}

TEST(Math, IntegersDivideWithoutTraps) {
  const int64_t smallest = std::numeric_limits<int64_t>::min();
  for (int64_t divisor : {int64_t{0}, int64_t{-1}, int64_t{1}, smallest}) {
    for (int64_t a : {int64_t{0}, int64_t{7}, int64_t{-7}, smallest}) {
      const int64_t quotient = TruncDivide{}(a, divisor);
      if (divisor == 0) {
        EXPECT_EQ(quotient, 0);
        EXPECT_EQ(Fmod{}(a, divisor), 0);
        EXPECT_EQ(Remainder{}(a, divisor), 0);
        EXPECT_EQ(FloorDivide{}(a, divisor), 0);
      } else if (divisor == -1) {
        EXPECT_EQ(quotient, a == smallest ? smallest : -a);
        EXPECT_EQ(FloorDivide{}(a, divisor), quotient);
        EXPECT_EQ(Fmod{}(a, divisor), 0);
      } else {
        EXPECT_EQ(quotient, a / divisor);
        EXPECT_EQ(Fmod{}(a, divisor), a % divisor);
      }
    }
  }
  EXPECT_EQ(FloorDivide{}(int64_t{-7}, int64_t{2}), -4);
  EXPECT_EQ(FloorDivide{}(int64_t{7}, int64_t{-2}), -4);
  EXPECT_EQ(FloorDivide{}(int64_t{6}, int64_t{-2}), -3);
  EXPECT_EQ(Remainder{}(int64_t{-7}, int64_t{2}), 1);
  EXPECT_EQ(Remainder{}(int64_t{7}, int64_t{-2}), -1);
  EXPECT_EQ(Fmod{}(int64_t{-7}, int64_t{2}), -1);
  EXPECT_EQ(Pow{}(int64_t{3}, int64_t{4}), 81);
  EXPECT_EQ(Pow{}(int64_t{-2}, int64_t{63}), smallest);
  EXPECT_EQ(Pow{}(int64_t{2}, int64_t{64}), 0);
  EXPECT_EQ(Pow{}(int64_t{-1}, int64_t{-3}), -1);
  EXPECT_EQ(Pow{}(int64_t{5}, int64_t{-1}), 0);
  EXPECT_EQ(Pow{}(int64_t{0}, int64_t{0}), 1);
}

TEST(Math, NanPassesThrough) {
  EXPECT_TRUE(std::isnan(Relu{}(kNan)));
  EXPECT_TRUE(std::isnan((Clamp{-1, 1}(kNan))));
  EXPECT_TRUE(std::isnan(ClampMin{0}(kNan)));
  EXPECT_TRUE(std::isnan(ClampMax{0}(kNan)));
  EXPECT_TRUE(std::isnan(Elu{1}(kNan)));
  EXPECT_TRUE(std::isnan(HardSwish{}(kNan)));
  EXPECT_TRUE(std::isnan(HardSigmoid{}(kNan)));
  EXPECT_TRUE(std::isnan(LogSigmoid{}(kNan)));
  EXPECT_TRUE(std::isnan(Mish{}(kNan)));
  EXPECT_TRUE(std::isnan((Softplus{1, 20}(kNan))));
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

// Far out, where a plain formula has lost its digits or overflows.
TEST(Math, ActivationsKeepTheirDigitsInTheTails) {
  const auto expect = [](double found, double expected) {
    EXPECT_NEAR(found / expected, 1, 1e-13) << expected;
  };
  expect(LogSigmoid{}(40.0), -std::exp(-40.0));
  EXPECT_EQ(LogSigmoid{}(-800.0), -800);
  expect((Softplus{1, 20}(-40.0)), std::exp(-40.0));
  expect(Mish{}(-40.0), -40 * std::exp(-40.0));
  EXPECT_EQ(Mish{}(800.0), 800);
  EXPECT_EQ(Mish{}.grad(800.0, 800.0)[0], 1);
  expect(Elu{1}(-1e-12), std::expm1(-1e-12));
  expect(Selu{}(-1e-12), Selu::kScale * Selu::kAlpha * std::expm1(-1e-12));
  EXPECT_EQ(Elu{1}.grad(800.0, 800.0)[0], 1);
  EXPECT_EQ(Silu{}.grad(-800.0, 0.0)[0], 0);
}

}  // namespace
}  // namespace lockstep::math
