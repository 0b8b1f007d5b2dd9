#include "lockstep/nn/parallel/error_feedback.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::nn {
namespace {

constexpr int64_t kLength = 16;  // of each gradient

class ErrorFeedbackTest : public ::testing::Test {
 protected:
  // Gradients of these parameters, all zero.
  GradientBucket bucket(int index, std::vector<int> parameters, double weight = 1) {
    GradientBucket result{
        .communicator = *alone_,
        .index = index,
        .values = Array::zeros({kLength * static_cast<int64_t>(parameters.size())}, DType::f32),
        .gradients = {},
        .parameters = std::move(parameters),
        .weight = weight};
    for (size_t i = 0; i < result.parameters.size(); ++i) {
      result.gradients.push_back(
          result.values.narrow(0, kLength * static_cast<int64_t>(i), kLength).reshape({4, 4}));
    }
    return result;
  }
  void keep(const GradientBucket& of, std::initializer_list<double> values) {
    const Array left = Array::zeros(of.values.shape(), DType::f32);
    int64_t at = 0;
    for (double value : values) kernels::fill(left.narrow(0, kLength * at++, kLength), value);
    feedback_.keep(of, left);
  }
  std::vector<float> added_to(const GradientBucket& to) {
    feedback_.add_to(to);
    std::vector<float> firsts;
    for (const Array& gradient : to.gradients) firsts.push_back(gradient.to_vector<float>()[0]);
    return firsts;
  }

  std::unique_ptr<Communicator> alone_ = make_single_communicator();
  ErrorFeedback feedback_;
};

TEST_F(ErrorFeedbackTest, FollowsParametersToOtherBuckets) {
  keep(bucket(0, {3, 5}), {30, 50});
  keep(bucket(1, {4}), {40});
  EXPECT_EQ(added_to(bucket(0, {4, 3, 9})), (std::vector<float>{40, 30, 0}));
  EXPECT_EQ(added_to(bucket(1, {5})), std::vector<float>{50});
}

TEST_F(ErrorFeedbackTest, IsKeptAsOfWeightOne) {
  keep(bucket(0, {1}, 4), {8});
  EXPECT_EQ(added_to(bucket(0, {1}, 3)), std::vector<float>{6});
  // A rank that does not count sends nothing, and loses nothing.
  EXPECT_EQ(added_to(bucket(0, {1}, 0)), std::vector<float>{0});
  keep(bucket(0, {1}, 0), {7});
  EXPECT_EQ(added_to(bucket(0, {1}, 1)), std::vector<float>{2});
}

TEST_F(ErrorFeedbackTest, ForgetsWhatIsNotFinite) {
  for (float value : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    keep(bucket(0, {1, 2}), {value, 5});
    EXPECT_EQ(added_to(bucket(0, {1, 2})), (std::vector<float>{0, 5}));
  }
}

}  // namespace
}  // namespace lockstep::nn
