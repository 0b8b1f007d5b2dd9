#include "lockstep/autograd/gradient_check.h"

#include <gtest/gtest.h>

#include "lockstep/autograd/function.h"
#include "lockstep/autograd/ops.h"

namespace lockstep {
namespace {

const Tensor kSamples{Array::from<double>({0.3, 0.7, 1.1}, {3})};

// exp with the gradient of something else in element 1, and a right gradient of that gradient.
Tensor wrong_exp(const Tensor& x) {
  return record({"wrong_exp"}, unrecorded([&] { return exp(x); }).value(), {&x},
                [x = Saved(x)](const Tensor& dy, Gradients& out) {
                  const Tensor factor{Array::from<double>({1, 1.5, 1}, {3})};
                  out.add(0, [&] { return dy * exp(*x) * factor; });
                });
}

// A gradient that is not recorded rightly: treats its own exp as a constant.
Tensor once_differentiable_exp(const Tensor& x) {
  return record({"exp_once"}, unrecorded([&] { return exp(x); }).value(), {&x},
                [x = Saved(x)](const Tensor& dy, Gradients& out) {
                  out.add(0, [&] { return dy * exp(x->detach()); });
                });
}

TEST(GradientCheck, PassesWhatIsRight) {
  const auto f = [](const std::vector<Tensor>& in) { return sin(in[0]) * in[2]; };
  const Tensor ids{Array::from<int64_t>({1, 2, 3}, {3})};
  const GradientReport report = gradient_check(f, {kSamples, ids, kSamples});
  EXPECT_TRUE(report) << report.to_string();
  EXPECT_EQ(report.checked, 6) << "integers are constants";
  EXPECT_EQ(report.to_string(), "all 6 gradients agree");
  EXPECT_TRUE(second_gradient_check(f, {kSamples, ids, kSamples}));
  EXPECT_TRUE(gradient_check([](const auto& in) { return in[0]; },
                             {Tensor(kSamples.value().expand({2, 3}))}));
}

TEST(GradientCheck, NamesInputAndElementOfWhatIsWrong) {
  const auto f = [](const std::vector<Tensor>& in) { return in[0] + wrong_exp(in[1]); };
  const GradientReport report = gradient_check(f, {kSamples, kSamples});
  EXPECT_FALSE(report);
  ASSERT_EQ(report.mismatches.size(), 1u);
  EXPECT_EQ(report.mismatches[0].input, 1);
  EXPECT_EQ(report.mismatches[0].element, 1);
  EXPECT_NEAR(report.mismatches[0].analytic, 1.5 * report.mismatches[0].numeric, 1e-6);
  EXPECT_NE(report.to_string().find("1 of 6 gradients differ from finite differences\n  input 1, "
                                    "element 1: analytic"),
            std::string::npos);
}

TEST(GradientCheck, SecondCheckSeesAWrongRecordedGradient) {
  const auto f = [](const std::vector<Tensor>& in) {
    return once_differentiable_exp(in[0]) * in[0];
  };
  EXPECT_TRUE(gradient_check(f, {kSamples}));
  EXPECT_EQ(second_gradient_check(f, {kSamples}).mismatches.size(), 3u);
}

TEST(GradientCheck, SaysWhatMakesAComparisonImpossible) {
  const auto cut = [](const std::vector<Tensor>& in) { return sin(in[0].detach()); };
  EXPECT_EQ(gradient_check(cut, {kSamples}).to_string(),
            "the output does not depend on any f64 input");
  EXPECT_FALSE(second_gradient_check(cut, {kSamples}));
  const auto linear = [](const std::vector<Tensor>& in) { return in[0] * 2.0; };
  EXPECT_EQ(second_gradient_check(linear, {kSamples}).problem, "the gradient was not recorded");
}

}  // namespace
}  // namespace lockstep
