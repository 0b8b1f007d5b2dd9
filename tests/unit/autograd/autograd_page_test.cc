// The examples of docs/autograd.md, in their order (autocast with a module: nn/half_copy_test.cc).

#include <gtest/gtest.h>

#include <cmath>

#include "lockstep/autograd/anomaly.h"
#include "lockstep/autograd/checkpoint.h"
#include "lockstep/autograd/function.h"
#include "lockstep/autograd/gradient_check.h"
#include "lockstep/autograd/ops.h"
#include "lockstep/runtime/trace_log.h"

namespace lockstep {
namespace {

Tensor clipped_log(const Tensor& x) {
  const Tensor y = unrecorded([&] { return log(maximum(x, Tensor(1e-6))); });
  return record({"clipped_log"}, y.value(), {&x}, [x = Saved(x)](const Tensor& dy, Gradients& out) {
    out.add(0, [&] { return dy / maximum(*x, Tensor(1e-6)); });
  });
}

TEST(AutogradPage, Gradients) {
  Tensor x = Array::full({}, 3, DType::f64);
  x.requires_grad_();
  (x * x + 2 * x + 1).backward();
  EXPECT_DOUBLE_EQ(x.grad().item(), 8);

  const Tensor y = sin(x);
  const Tensor first = grad(y, x, {.create_graph = true});
  const Tensor second = grad(first, x);
  EXPECT_DOUBLE_EQ(second.item(), -std::sin(3));
}

TEST(AutogradPage, Hooks) {
  Tensor x = Array::full({}, 3, DType::f64);
  x.requires_grad_();
  const Tensor hidden = tanh(x);
  HookHandle handle = hidden.register_hook([](const Tensor& gradient) { return gradient * 0.5; });
  hidden.retain_grad();
  (hidden * hidden).backward();
  EXPECT_DOUBLE_EQ(hidden.grad().item(), std::tanh(3));
  handle.remove();
}

TEST(AutogradPage, GradientCheck) {
  const Tensor a{Array::from<double>({0.5, 2}, {2})}, b{Array::from<double>({1, -1}, {2})};
  const GradientReport report = gradient_check(
      [](const std::vector<Tensor>& in) { return clipped_log(in[0]) * in[1]; }, {a, b});
  EXPECT_TRUE(report) << report.to_string();
}

TEST(AutogradPage, Checkpoint) {
  const auto block = [](const Tensor& in) { return tanh(in); };
  const Tensor weight = Tensor::variable(Array::full({3, 3}, 0.1, DType::f64));
  Tensor h = Array::full({2, 3}, 0.5, DType::f64);
  h = checkpoint(block, h);
  h = checkpoint([&](const Tensor& in) { return gelu(linear(in, weight)); }, h);
  sum(h).backward();
  EXPECT_TRUE(weight.grad());
}

TEST(AutogradPage, DetectAnomaly) {
  const DetectAnomaly detect;
  EXPECT_THROW(log(Tensor(Array::full({3}, -1, DType::f32))), Error);
}

TEST(AutogradPage, TraceLog) {
  TraceLog log;
  const Tensor x{Array::full({4, 5}, 1, DType::f32)};
  linear(x, x);
  EXPECT_EQ(log.to_string(), "linear: 1 calls, 160 flops\n");
}

}  // namespace
}  // namespace lockstep
