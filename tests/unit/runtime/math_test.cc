#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <string>

#include "lockstep/runtime/math/binary.h"
#include "lockstep/runtime/math/compare.h"
#include "lockstep/runtime/math/probe.h"
#include "lockstep/runtime/math/unary.h"

namespace lockstep::math {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kAttributes[2] = {0.3, 1.75};
// Away from every listed functor's corners: integers, 0, clamp's bounds.
constexpr double kPoints[] = {-2.3, -1.1, -0.7, -0.15, 0.2, 0.45, 0.6, 1.4, 1.9, 3.1};
constexpr double kStep = 1e-6;

void expect_derivative(double derivative, double above, double below, const std::string& what) {
  if (std::isnan(above) || std::isnan(below)) return;  // outside the domain
  const double difference = (above - below) / (2 * kStep);
  EXPECT_NEAR(derivative, difference, 1e-7 * (1 + std::abs(difference))) << what;
}

TEST(Math, UnaryDerivativesEqualFiniteDifferences) {
  for_each(UnaryOps{}, []<class F>() {
    const F f = make_functor<F>(kAttributes);
    for (double x : kPoints) {
      expect_derivative(f.grad(x, f(x))[0], f(x + kStep), f(x - kStep),
                        std::string(F::name) + " at " + std::to_string(x));
    }
  });
}

TEST(Math, BinaryDerivativesEqualFiniteDifferences) {
  for_each(BinaryOps{}, []<class F>() {
    const F f;
    for (double a : kPoints) {
      for (double b : kPoints) {
        if (a == b) continue;
        const auto partials = f.grad(a, b, f(a, b));
        const std::string what = std::string(F::name) + " at " + std::to_string(a) + ", " +
                                 std::to_string(b) + ", operand ";
        expect_derivative(partials[0], f(a + kStep, b), f(a - kStep, b), what + "0");
        expect_derivative(partials[1], f(a, b + kStep), f(a, b - kStep), what + "1");
      }
    }
  });
}

// What `reads_of` says is not read may be anything.
TEST(Math, DerivativesReadWhatTheyDeclare) {
  for_each(UnaryOps{}, []<class F>() {
    constexpr Reads kReads = reads_of<F>();
    const F f = make_functor<F>(kAttributes);
    const double x = 0.6;
    const double expected = f.grad(x, f(x))[0];
    EXPECT_EQ(f.grad(kReads.a ? x : kNan, kReads.out ? f(x) : kNan)[0], expected) << F::name;
    EXPECT_TRUE(!kReads.is_one || expected == 1) << F::name;
    EXPECT_TRUE(!kReads.is_zero || expected == 0) << F::name;
    EXPECT_FALSE(kReads.b) << F::name;
  });
  for_each(BinaryOps{}, []<class F>() {
    for (int operand : {0, 1}) {
      const Reads reads = reads_of<F>(operand);
      const double a = 0.6;
      const double b = 1.4;
      const double out = F{}(a, b);
      const double expected = F{}.grad(a, b, out)[operand];
      EXPECT_EQ(F{}.grad(reads.a ? a : kNan, reads.b ? b : kNan, reads.out ? out : kNan)[operand],
                expected)
          << F::name;
      EXPECT_TRUE(!reads.is_one || expected == 1) << F::name;
    }
  });
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
  for_each(UnaryOps{}, [&]<class F>() {
    EXPECT_TRUE(names.insert(F::name).second) << F::name;
    EXPECT_EQ((index_of<UnaryOps, F>), index++);
  });
  for_each(BinaryOps{}, [&]<class F>() { EXPECT_TRUE(names.insert(F::name).second) << F::name; });
  for_each(CompareOps{}, [&]<class F>() { EXPECT_TRUE(names.insert(F::name).second) << F::name; });
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
