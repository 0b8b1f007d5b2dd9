#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "support/gradient_check.h"

namespace lockstep::testing {

// A function of f64 inputs whose gradients are to be right, once and twice, fused and recorded.
struct DifferentiableCase {
  std::string name;
  Function function;
  std::vector<Array> inputs;
};

inline void expect_differentiable(const DifferentiableCase& c) {
  SCOPED_TRACE(c.name);
  expect_gradients(c.function, c.inputs);
  expect_recorded_equals_fused(c.function, c.inputs, 1e-11);
  // A function that is linear in its inputs has no second gradient: its square has one.
  expect_second_gradients([&](const auto& in) { return square(c.function(in)); }, c.inputs);
}

inline void expect_all_near(const Tensor& actual, const Tensor& expected, double tolerance) {
  ASSERT_EQ(actual.shape(), expected.shape());
  const auto a = actual.to_vector<double>(), b = expected.to_vector<double>();
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_NEAR(a[i], b[i], tolerance * std::max(1.0, std::abs(b[i]))) << "element " << i;
  }
}

// How far a result in `dtype` may be from that in f64.
inline double rounding_of(DType dtype) {
  return dtype == DType::f32 ? 1e-5 : dtype == DType::f16 ? 1e-2 : 6e-2;
}

// f in every other floating dtype against f in f64, values and gradients.
inline void expect_all_dtypes(const Function& f, const std::vector<Array>& inputs) {
  const auto results = [&](DType dtype) {
    std::vector<Tensor> variables;
    for (const Array& input : inputs) {
      // Rounded once for all, so that only the op's own rounding differs.
      variables.push_back(
          Tensor::variable(kernels::copy(kernels::cast(kernels::cast(input, DType::bf16), dtype))));
    }
    std::vector<Tensor> out{f(variables)};
    EXPECT_EQ(out[0].dtype(), dtype);
    const Tensor seed(
        kernels::cast(kernels::cast(random_array(out[0].shape(), 99), DType::bf16), dtype));
    for (const Tensor& gradient : grad({out.data(), 1}, variables, {&seed, 1})) {
      EXPECT_EQ(gradient.dtype(), dtype);
      out.push_back(gradient);
    }
    return out;
  };
  const auto expected = results(DType::f64);
  for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    SCOPED_TRACE(std::string(name_of(dtype)));
    const auto found = results(dtype);
    for (size_t i = 0; i < expected.size(); ++i) {
      SCOPED_TRACE(i);
      expect_all_near(found[i], expected[i], rounding_of(dtype));
    }
  }
}

// f throws an Error whose message begins with `name`.
template <class F>
void expect_error(const std::string& name, const F& f) {
  try {
    f();
    ADD_FAILURE() << name << ": no error";
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).substr(0, name.size()), name) << error.what();
  }
}

}  // namespace lockstep::testing
