#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "lockstep/autograd/gradient_check.h"
#include "lockstep/autograd/ops.h"
#include "lockstep/autograd/tensor.h"
#include "lockstep/runtime/kernels.h"
#include "lockstep/runtime/ops/elementwise.h"

// autograd/gradient_check.h as expectations.
namespace lockstep::testing {

using Function = DifferentiableFunction;

// Reproducible values in (low, high), f64.
inline Array random_array(Shape shape, uint64_t seed, double low = -1, double high = 1) {
  Array values = Array::empty(shape, DType::f64);
  kernels::of(values).uniform(values.view(), low, high, {.seed = seed}, 0);
  return values;
}

inline double weighted_sum(const Tensor& y, const Array& weights) {
  const NoGrad no_grad;
  return sum(y.detach() * Tensor(weights)).item();
}

inline std::vector<Tensor> variables(const std::vector<Array>& inputs) {
  std::vector<Tensor> tensors;
  for (const Array& input : inputs) tensors.push_back(Tensor::variable(kernels::copy(input)));
  return tensors;
}

inline std::vector<Tensor> tensors_of(const std::vector<Array>& inputs) {
  return {inputs.begin(), inputs.end()};
}

inline void expect_passed(const GradientReport& report) {
  EXPECT_TRUE(report.passed()) << report.to_string();
}

// `gradients` (absent: zero) of the scalar `value()` by each element of `tensors`, against central
// differences.
inline void expect_differences(const std::vector<Tensor>& tensors,
                               const std::vector<Tensor>& gradients,
                               const std::function<double()>& value, double tolerance) {
  expect_passed(compare_with_differences(tensors, gradients, value, {.tolerance = tolerance}));
}

// The gradients of sum(f(inputs) * weights).
inline void expect_gradients(const Function& f, const std::vector<Array>& inputs,
                             double tolerance = 1e-6) {
  expect_passed(gradient_check(f, tensors_of(inputs), {.tolerance = tolerance}));
}

// The same for the gradients themselves: recorded, then differentiated once more.
inline void expect_second_gradients(const Function& f, const std::vector<Array>& inputs,
                                    double tolerance = 1e-5) {
  expect_passed(second_gradient_check(f, tensors_of(inputs), {.tolerance = tolerance}));
}

// The recorded form of every gradient equals the fused one.
inline void expect_recorded_equals_fused(const Function& f, const std::vector<Array>& inputs,
                                         double tolerance = 1e-12) {
  const std::vector<Tensor> tensors = variables(inputs);
  const Tensor y = f(tensors);
  const Tensor seed{random_array(y.shape(), 99)};
  const auto fused =
      grad({&y, 1}, tensors, {&seed, 1}, {.retain_graph = true, .allow_unused = true});
  const auto recorded =
      grad({&y, 1}, tensors, {&seed, 1}, {.create_graph = true, .allow_unused = true});
  for (size_t i = 0; i < tensors.size(); ++i) {
    ASSERT_EQ(static_cast<bool>(fused[i]), static_cast<bool>(recorded[i]));
    if (!fused[i]) continue;
    const auto a = fused[i].to_vector<double>(), b = recorded[i].to_vector<double>();
    for (size_t j = 0; j < a.size(); ++j) {
      EXPECT_NEAR(a[j], b[j], tolerance * std::max(1.0, std::abs(a[j]))) << "input " << i;
    }
  }
}

}  // namespace lockstep::testing
