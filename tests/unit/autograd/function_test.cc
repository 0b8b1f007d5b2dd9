#include "lockstep/autograd/function.h"

#include <gtest/gtest.h>

#include "lockstep/autograd/ops.h"
#include "lockstep/runtime/trace_log.h"
#include "support/gradient_check.h"

namespace lockstep {
namespace {

using testing::random_array;

Tensor clipped_log(const Tensor& x) {
  const Tensor y = unrecorded([&] { return log(maximum(x, Tensor(1e-6))); });
  return record({"clipped_log"}, y.value(), {&x}, [x = Saved(x)](const Tensor& dy, Gradients& out) {
    out.add(0, [&] { return dy / maximum(*x, Tensor(1e-6)); });
  });
}

// Saves its output.
Tensor logistic(const Tensor& x) {
  const Tensor y = unrecorded([&] { return 1.0 / (1.0 + exp(-x)); });
  return record({"logistic"}, y.value(), {&x}, [y = Saved(y)](const Tensor& dy, Gradients& out) {
    out.add(0, [&] {
      const Tensor own = out.own(y);
      return dy * own * (1.0 - own);
    });
  });
}

// Rounds forward, lets the gradient through unchanged.
Tensor straight_through_round(const Tensor& x) {
  return record({"straight_through_round"}, unrecorded([&] { return round(x); }).value(), {&x},
                [](const Tensor& dy, Gradients& out) { out.add(0, dy); });
}

std::vector<Tensor> sum_and_difference(const Tensor& a, const Tensor& b) {
  const auto values = unrecorded([&] {
    return std::vector<Array>{(a + b).value(), (a - b).value()};
  });
  const Tensor* inputs[] = {&a, &b};
  return record_many({"sum_and_difference"}, values, inputs,
                     [](std::span<const Tensor> dys, Gradients& out) {
                       if (dys[0]) out.add(0, dys[0]);
                       if (dys[0]) out.add(1, dys[0]);
                       if (dys[1]) out.add(0, dys[1]);
                       if (dys[1]) out.add(1, [&] { return -dys[1]; });
                     });
}

TEST(CustomFunction, GradientAndItsGradient) {
  const Array x = random_array({2, 3}, 1, 0.3, 2);
  const auto log_of = [](const auto& in) { return clipped_log(in[0]); };
  testing::expect_gradients(log_of, {x});
  testing::expect_second_gradients(log_of, {x});
  const auto logistic_of = [](const auto& in) { return logistic(in[0]); };
  testing::expect_gradients(logistic_of, {x});
  testing::expect_second_gradients(logistic_of, {x});
}

TEST(CustomFunction, OwnGradientReplacesTheFormulas) {
  const Tensor x = Tensor::variable(Array::from<double>({0.4, 1.6}, {2}));
  const Tensor y = straight_through_round(x);
  EXPECT_EQ(y.to_vector<double>(), (std::vector<double>{0, 2}));
  sum(y * 3.0).backward();
  EXPECT_EQ(x.grad().to_vector<double>(), (std::vector<double>{3, 3}));
}

TEST(CustomFunction, SeveralOutputs) {
  const auto f = [](const auto& in) {
    const auto both = sum_and_difference(in[0], in[1]);
    return both[0] * square(both[1]);
  };
  testing::expect_gradients(f, {random_array({3}, 1), random_array({3}, 2)});
  testing::expect_second_gradients(f, {random_array({3}, 1), random_array({3}, 2)});
  const auto one_used = [](const auto& in) { return square(sum_and_difference(in[0], in[1])[1]); };
  testing::expect_gradients(one_used, {random_array({3}, 1), random_array({3}, 2)});
}

TEST(CustomFunction, IsOneOpForTracers) {
  TraceLog log;
  logistic(Tensor(random_array({3}, 1)));
  ASSERT_EQ(log.entries().size(), 1u);
  EXPECT_EQ(log.entries()[0].name, "logistic");
}

}  // namespace
}  // namespace lockstep
