// Gradients have the shape and dtype of what they belong to, whoever made them.

#include <gtest/gtest.h>

#include "differentiable_case.h"
#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/function.h"
#include "lockstep/runtime/ops/rows.h"

namespace lockstep::testing {
namespace {

// x, with this as its gradient.
Tensor with_gradient(const Tensor& x, const Array& gradient) {
  return record({"with_gradient"}, kernels::copy(x.value()), {&x},
                [gradient](const Tensor&, Gradients& out) { out.add(0, gradient); });
}

TEST(GradientShape, OfAnotherShapeNamesTheFunctionThatMadeIt) {
  const Tensor matrix(random_array({3, 3}, 2));
  const std::pair<const char*, std::function<Tensor(const Tensor&)>> ops[] = {
      {"leaf", [](const Tensor& x) { return x; }},
      {"softmax", [](const Tensor& x) { return softmax(x); }},
      {"log_softmax", [](const Tensor& x) { return log_softmax(x); }},
      {"layer_norm", [](const Tensor& x) { return layer_norm(x, {3}); }},
      {"rms_norm", [](const Tensor& x) { return rms_norm(x, {3}); }},
      {"batch_norm",
       [](const Tensor& x) { return batch_norm(x, {}, {}, {}, {}, {.training = true}); }},
      {"linear", [&](const Tensor& x) { return linear(x, matrix); }},
      {"reshape",
       [](const Tensor& x) {
         return reshape(reshape(x, {6}), {2, 3});
       }},
      {"the second of two",
       [](const Tensor& x) {
         return chunk(cat({x, x}, 0), 2, 0)[1];
       }},
  };
  for (const auto& [name, op] : ops) {
    SCOPED_TRACE(name);
    for (const Shape& shape : {Shape{3, 2}, Shape{1, 3}, Shape{3}, Shape{5, 7}, Shape{}}) {
      const Tensor x = Tensor::variable(random_array({2, 3}, 1));
      const Tensor y = sum(with_gradient(op(x), Array::full(shape, 1, DType::f64)));
      expect_error(concat({"backward of with_gradient: a gradient of shape ", shape,
                           " for input 0 of shape [2, 3]"}),
                   [&] { y.backward(); });
    }
  }
}

TEST(GradientShape, OfAttentionNamesTheFunctionToo) {
  const Tensor x = Tensor::variable(random_array({1, 2, 3, 4}, 1));
  const Tensor y =
      with_gradient(scaled_dot_product_attention(x, x, x), Array::zeros({3, 4}, DType::f64));
  expect_error("backward of with_gradient: a gradient of shape [3, 4] for input 0",
               [&] { sum(y).backward(); });
}

// Those who call the kernels themselves.
TEST(GradientShape, KernelsReadNoMoreThanThereIs) {
  const Array x = random_array({2, 3}, 1), wrong = random_array({1, 3}, 2);
  const Array narrow = kernels::cast(x, DType::f32);
  const auto wants = [](const std::string& name, const char* found, const char* expected) {
    return name + ": a gradient of shape " + found + ", expected " + expected;
  };
  for (const bool log : {false, true}) {
    const Array y = kernels::softmax(x, log);
    expect_error(wants("softmax backward", "[1, 3]", "[2, 3]"),
                 [&] { kernels::softmax_backward(y, wrong, log, {}); });
    expect_error(wants("softmax backward", "[2, 3] f32", "f64"),
                 [&] { kernels::softmax_backward(y, narrow, log, {}); });
  }
  const kernels::LayerNorm layer = kernels::layer_norm(x, {}, {}, {}, 1e-5, DType::f64);
  expect_error(wants("layer_norm backward", "[1, 3]", "[2, 3]"),
               [&] { kernels::layer_norm_backward(wrong, x, {}, layer, {.x = true}); });
  expect_error(wants("layer_norm backward", "[1, 3]", "[2, 3]"),
               [&] { kernels::layer_norm_backward(x, x, {}, layer, {.x = true, .dsum = wrong}); });
  const kernels::RmsNorm rms = kernels::rms_norm(x, {}, 1e-5);
  expect_error(wants("rms_norm backward", "[1, 3]", "[2, 3]"),
               [&] { kernels::rms_norm_backward(wrong, x, {}, rms.inverse_rms, {.x = true}); });
  const Array q = random_array({1, 2, 3, 4}, 1);
  const kernels::Attention attended = kernels::attention(q, q, q, {});
  const auto attention_backward = [&](const Array& dout) {
    const Array d = Array::empty(q.shape(), DType::f64);
    kernels::attention_backward(dout, q, q, q, attended, {}, {}, d, d, d);
  };
  expect_error(wants("attention backward", "[1, 2, 1, 4]", "[1, 2, 3, 4]"), [&] {
    attention_backward(random_array({1, 2, 1, 4}, 1));
  });
  expect_error(wants("attention backward", "[1, 2, 3, 4] f32", "f64"),
               [&] { attention_backward(kernels::cast(q, DType::f32)); });
}

// f32 for 16 bits, as a function makes of its f32 result under autocast, or f64 for f32.
TEST(GradientShape, AnotherDtypeIsConverted) {
  const Array weight = kernels::cast(random_array({4, 4}, 3), DType::f32);
  const std::pair<const char*, std::function<Tensor(const Tensor&)>> ops[] = {
      {"linear", [&](const Tensor& x) { return linear(x, Tensor(weight)); }},
      {"softmax", [](const Tensor& x) { return softmax(x); }},
      {"attention", [](const Tensor& x) { return scaled_dot_product_attention(x, x, x); }},
  };
  const Array values = kernels::cast(random_array({1, 1, 3, 4}, 1), DType::f32);
  const Array gradient = random_array({1, 1, 3, 4}, 2);
  for (const auto& [name, op] : ops) {
    for (const bool autocasts : {false, true}) {
      SCOPED_TRACE(name);
      const Tensor x = Tensor::variable(values), same = Tensor::variable(values);
      Tensor y, seen;
      {
        std::optional<Autocast> autocast;
        if (autocasts) autocast.emplace(DType::bf16);
        y = op(x);
        op(same).backward(gradient);
      }
      y.register_hook([&](const Tensor& given) { seen = given; });
      sum(with_gradient(y, gradient)).backward();
      EXPECT_EQ(seen.dtype(), y.dtype());
      EXPECT_EQ(x.grad().to_vector<float>(), same.grad().to_vector<float>());
    }
  }
}

// What is converted is recorded with the rest.
TEST(GradientShape, AConvertedGradientCanBeDifferentiated) {
  const Tensor x = Tensor::variable(Array::full({3}, 2, DType::f32));
  const Tensor y = x * 1.0;
  const Tensor cube =
      record({"cube"}, (y * y * y).value(), {&y}, [y = Saved(y)](const Tensor& dy, Gradients& out) {
        out.add(0, [&] {
          return to(dy, DType::f64) * *y * *y * Tensor(Array::full({3}, 3, DType::f64));
        });
      });
  const Tensor first = grad(sum(cube), x, {.create_graph = true});
  EXPECT_EQ(first.dtype(), DType::f32);
  EXPECT_EQ(grad(sum(first), x).to_vector<float>(), std::vector<float>(3, 12));
}

}  // namespace
}  // namespace lockstep::testing
