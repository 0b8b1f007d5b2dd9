#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "lockstep/autograd/ops.h"
#include "lockstep/autograd/tensor.h"
#include "lockstep/runtime/kernels.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::testing {

using Function = std::function<Tensor(const std::vector<Tensor>&)>;

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

// `gradients` (absent: zero) of the scalar `value()` by each element of `tensors`, against central
// differences.
inline void expect_differences(const std::vector<Tensor>& tensors,
                               const std::vector<Tensor>& gradients,
                               const std::function<double()>& value, double tolerance) {
  constexpr double kStep = 1e-5;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Array& x = tensors[i].value();
    for (int64_t j = 0; j < x.elements(); ++j) {
      double& element = x.data<double>()[j];
      const double before = element;
      element = before + kStep;
      const double above = value();
      element = before - kStep;
      const double below = value();
      element = before;
      const double expected = (above - below) / (2 * kStep);
      const double found =
          gradients[i] ? kernels::contiguous(gradients[i].value()).data<double>()[j] : 0.0;
      EXPECT_NEAR(found, expected, tolerance * std::max(1.0, std::abs(expected)))
          << "input " << i << ", element " << j;
    }
  }
}

// The gradients of sum(f(inputs) * weights). Inputs are contiguous f64 arrays.
inline void expect_gradients(const Function& f, const std::vector<Array>& inputs,
                             double tolerance = 1e-6) {
  const std::vector<Tensor> tensors = variables(inputs);
  const Tensor y = f(tensors);
  const Array weights = random_array(y.shape(), 99);
  const Tensor seed{weights};
  const auto gradients = grad({&y, 1}, tensors, {&seed, 1}, {.allow_unused = true});
  expect_differences(
      tensors, gradients, [&] { return weighted_sum(f(tensors), weights); }, tolerance);
}

// The same for the gradients themselves: recorded, then differentiated once more.
inline void expect_second_gradients(const Function& f, const std::vector<Array>& inputs,
                                    double tolerance = 1e-5) {
  const std::vector<Tensor> tensors = variables(inputs);
  const auto weighted_gradients = [&] {
    const Tensor y = f(tensors);
    const Tensor seed{random_array(y.shape(), 99)};
    const auto gradients =
        grad({&y, 1}, tensors, {&seed, 1}, {.create_graph = true, .allow_unused = true});
    Tensor total;
    for (size_t i = 0; i < gradients.size(); ++i) {
      if (!gradients[i]) continue;
      const Tensor part = sum(gradients[i] * Tensor(random_array(tensors[i].shape(), 7 + i)));
      total = total ? total + part : part;
    }
    return total;
  };
  const Tensor total = weighted_gradients();
  ASSERT_TRUE(total.requires_grad()) << "the gradient was not recorded";
  const auto second = grad({&total, 1}, tensors, {}, {.allow_unused = true});
  expect_differences(
      tensors, second, [&] { return weighted_gradients().item(); }, tolerance);
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
