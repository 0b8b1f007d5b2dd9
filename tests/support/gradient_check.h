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

inline double& element(const Array& x, int64_t i) { return x.data<double>()[i]; }

// Compares the gradients of sum(f(inputs) * weights) with central differences. Inputs are
// contiguous f64 arrays.
inline void expect_gradients(const Function& f, const std::vector<Array>& inputs,
                             double tolerance = 1e-6) {
  std::vector<Tensor> tensors;
  for (const Array& input : inputs) tensors.push_back(Tensor::variable(kernels::copy(input)));
  const Tensor y = f(tensors);
  const Array weights = random_array(y.shape(), 99);
  const Tensor seed{weights};
  const std::vector<Tensor> gradients = grad({&y, 1}, tensors, {&seed, 1}, {.allow_unused = true});
  constexpr double kStep = 1e-5;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Array& x = tensors[i].value();
    for (int64_t j = 0; j < x.elements(); ++j) {
      const double before = element(x, j);
      element(x, j) = before + kStep;
      const double above = weighted_sum(f(tensors), weights);
      element(x, j) = before - kStep;
      const double below = weighted_sum(f(tensors), weights);
      element(x, j) = before;
      const double expected = (above - below) / (2 * kStep);
      const double found =
          gradients[i] ? kernels::contiguous(gradients[i].value()).data<double>()[j] : 0.0;
      EXPECT_NEAR(found, expected, tolerance * std::max(1.0, std::abs(expected)))
          << "input " << i << ", element " << j;
    }
  }
}

// The same for the gradients themselves: recorded, then differentiated once more.
inline void expect_second_gradients(const Function& f, const std::vector<Array>& inputs,
                                    double tolerance = 1e-5) {
  const auto weighted_gradients = [&](const std::vector<Tensor>& tensors) {
    const Tensor y = f(tensors);
    const Tensor seed{random_array(y.shape(), 99)};
    const std::vector<Tensor> gradients =
        grad({&y, 1}, tensors, {&seed, 1}, {.create_graph = true, .allow_unused = true});
    Tensor total;
    for (size_t i = 0; i < gradients.size(); ++i) {
      if (!gradients[i]) continue;
      const Tensor part = sum(gradients[i] * Tensor(random_array(tensors[i].shape(), 7 + i)));
      total = total ? total + part : part;
    }
    return total;
  };
  // Through expect_gradients, whose perturbed calls need recording for the inner grad.
  std::vector<Tensor> tensors;
  for (const Array& input : inputs) tensors.push_back(Tensor::variable(kernels::copy(input)));
  const Tensor total = weighted_gradients(tensors);
  ASSERT_TRUE(total.requires_grad()) << "the gradient was not recorded";
  const std::vector<Tensor> second = grad({&total, 1}, tensors, {}, {.allow_unused = true});
  constexpr double kStep = 1e-5;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Array& x = tensors[i].value();
    for (int64_t j = 0; j < x.elements(); ++j) {
      const double before = element(x, j);
      element(x, j) = before + kStep;
      const double above = weighted_gradients(tensors).item();
      element(x, j) = before - kStep;
      const double below = weighted_gradients(tensors).item();
      element(x, j) = before;
      const double expected = (above - below) / (2 * kStep);
      const double found =
          second[i] ? kernels::contiguous(second[i].value()).data<double>()[j] : 0.0;
      EXPECT_NEAR(found, expected, tolerance * std::max(1.0, std::abs(expected)))
          << "second gradient, input " << i << ", element " << j;
    }
  }
}

// The recorded form of every gradient equals the fused one.
inline void expect_recorded_equals_fused(const Function& f, const std::vector<Array>& inputs,
                                         double tolerance = 1e-12) {
  std::vector<Tensor> tensors;
  for (const Array& input : inputs) tensors.push_back(Tensor::variable(kernels::copy(input)));
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
