#include "lockstep/autograd/hooks.h"

#include <gtest/gtest.h>

#include "lockstep/autograd/ops.h"
#include "lockstep/autograd/record.h"
#include "support/gradient_check.h"

namespace lockstep {
namespace {

Tensor variable(double value) { return Tensor::variable(Array::full({}, value, DType::f64)); }

std::string message_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(TensorHooks, SeeAndReplaceTheGradientOfAnIntermediateTensor) {
  const Tensor x = variable(2);
  const Tensor y = x * x;
  std::vector<double> seen;
  y.register_hook([&](const Tensor& gradient) { seen.push_back(gradient.item()); });
  y.register_hook([](const Tensor& gradient) { return gradient * 10.0; });
  y.register_hook([&](const Tensor& gradient) { seen.push_back(gradient.item()); });
  (y * y).backward();
  EXPECT_EQ(seen, (std::vector<double>{8, 80}));
  EXPECT_DOUBLE_EQ(x.grad().item(), 320);
}

// PyTorch's numbers: retain_grad() sees what all hooks leave, whenever they were added.
TEST(TensorHooks, RetainedGradientIsTakenAfterAllHooks) {
  const Tensor x = variable(2);
  x.register_hook([](const Tensor& gradient) { return gradient * 3.0; });
  const Tensor y = x * x;
  y.register_hook([](const Tensor& gradient) { return gradient * 10.0; });
  y.retain_grad();
  y.register_hook([](const Tensor& gradient) { return gradient + 1.0; });
  (y * y).backward({.retain_graph = true});
  EXPECT_DOUBLE_EQ(y.grad().item(), 81);
  EXPECT_DOUBLE_EQ(x.grad().item(), 972);
  (y * y).backward();
  EXPECT_DOUBLE_EQ(y.grad().item(), 162) << "adds up like a leaf's";
  y.zero_grad();
  EXPECT_FALSE(y.grad());
}

TEST(TensorHooks, OfALeafSeeThePassesWholeGradientOnceBeforeItIsAdded) {
  const Tensor x = variable(2);
  std::vector<double> seen;
  std::vector<double> accumulated;
  x.register_hook([&](const Tensor& gradient) {
    seen.push_back(gradient.item());
    return gradient * 2.0;
  });
  Leaf& leaf = static_cast<Leaf&>(*x.node());
  leaf.seat_gradient(Array::full({}, 77, DType::f64));
  leaf.set_hook([&] { accumulated.push_back(leaf.gradient().item()); });
  (x * x + x * 3.0 + x).backward();
  (x * 5.0).backward();
  EXPECT_EQ(seen, (std::vector<double>{8, 5})) << "of each pass, not the sum of both";
  EXPECT_EQ(accumulated, (std::vector<double>{16, 26}));
}

TEST(TensorHooks, RunInGradToo) {
  const Tensor x = variable(2);
  x.register_hook([](const Tensor& gradient) { return gradient * 3.0; });
  const Tensor y = x * x;
  EXPECT_DOUBLE_EQ(grad(y * y, x).item(), 96);
  EXPECT_FALSE(x.grad());
}

TEST(TensorHooks, ReplacementIsRecorded) {
  const Tensor x = variable(2);
  const Tensor y = x * 1.0;
  y.register_hook([](const Tensor& gradient) { return gradient * gradient; });
  // (3 x^2)^2; its derivative 36 x^3 passes the hook as well.
  const Tensor first = grad(y * y * y, x, {.create_graph = true});
  EXPECT_DOUBLE_EQ(first.item(), 144);
  EXPECT_DOUBLE_EQ(grad(first, x).item(), 288 * 288);
}

TEST(TensorHooks, RemovedHooksAreSilent) {
  const Tensor x = variable(2);
  int first = 0, second = 0;
  HookHandle handle = x.register_hook([&](const Tensor&) { ++first; });
  HookHandle other;
  x.register_hook([&](const Tensor&) { other.remove(); });
  other = x.register_hook([&](const Tensor&) { ++second; });
  handle.remove();
  handle.remove();
  (x * x).backward();
  EXPECT_EQ(first, 0);
  EXPECT_EQ(second, 0) << "removed by a hook before it";
  HookHandle orphan;
  {
    orphan = variable(1).register_hook([](const Tensor&) {});
  }
  orphan.remove();
}

TEST(TensorHooks, OfOneOutputOfMany) {
  const Tensor x = Tensor::variable(testing::random_array({4}, 1));
  const auto parts = chunk(x, 2, 0);
  parts[1].register_hook([](const Tensor& gradient) { return gradient * 5.0; });
  parts[0].retain_grad();
  sum(parts[0] + parts[1]).backward();
  EXPECT_EQ(x.grad().to_vector<double>(), (std::vector<double>{1, 1, 5, 5}));
  EXPECT_EQ(parts[0].grad().to_vector<double>(), (std::vector<double>{1, 1}));
}

TEST(TensorHooks, Errors) {
  const Tensor x = variable(2);
  const Tensor y = x * x;
  EXPECT_NE(message_of([&] { y.grad(); }).find("retain_grad"), std::string::npos);
  EXPECT_NE(message_of([&] { Tensor().retain_grad(); }).find("constant"), std::string::npos);
  EXPECT_NE(message_of([&] { x.detach().register_hook([](const Tensor&) {}); }).find("constant"),
            std::string::npos);
  y.register_hook([](const Tensor&) { return Tensor(Array::zeros({2}, DType::f64)); });
  EXPECT_NE(message_of([&] { y.backward(); }).find("a hook returned a gradient of shape [2]"),
            std::string::npos);
}

TEST(Backward, OfSeveralTensorsInOnePass) {
  const Tensor x = variable(2);
  const Tensor y = x * x;
  int fired = 0;
  static_cast<Leaf&>(*x.node()).set_hook([&] { ++fired; });
  backward(std::vector<Tensor>{y, y * 3.0, x});
  EXPECT_DOUBLE_EQ(x.grad().item(), 4 + 12 + 1);
  EXPECT_EQ(fired, 1);
  x.zero_grad();
  backward(std::vector<Tensor>{x * x, x * 3.0}, std::vector<Tensor>{variable(10), variable(100)});
  EXPECT_DOUBLE_EQ(x.grad().item(), 40 + 300);
  EXPECT_NE(message_of([&] { backward({}); }).find("no tensors"), std::string::npos);
  EXPECT_NE(message_of([&] {
              backward(std::vector<Tensor>{x * x}, std::vector<Tensor>{variable(1), variable(1)});
            }).find("2 gradients for 1"),
            std::string::npos);
}

// The closure of the tensor that is asked for is neither needed nor dropped.
TEST(Backward, GradOfAnIntermediateTensorLeavesItsOwnHistory) {
  const Tensor x = variable(3);
  const Tensor y = tanh(x);
  grad(y * y, y);
  y.backward();
  EXPECT_NEAR(x.grad().item(), 1 - std::tanh(3) * std::tanh(3), 1e-15);
}

TEST(TensorMembers, RequiresGrad) {
  Tensor x = Array::full({}, 3, DType::f64);
  (x.requires_grad_() * 2.0).backward();
  EXPECT_DOUBLE_EQ(x.grad().item(), 2);
  Tensor y = x * 2.0;
  EXPECT_NE(message_of([&] { y.requires_grad_(false); }).find("detach()"), std::string::npos);
  EXPECT_FALSE(x.requires_grad_(false).requires_grad());
  Tensor ids = Array::full({}, 3, DType::i64);
  EXPECT_NE(message_of([&] { ids.requires_grad_(); }).find("i64"), std::string::npos);
}

TEST(TensorMembers, ForwardToOps) {
  const Tensor x = Tensor::variable(Array::from<double>({1, 2, 3, 4, 5, 6}, {2, 3}));
  EXPECT_EQ(x.size(-1), 3);
  EXPECT_EQ(x.t().shape(), (Shape{3, 2}));
  EXPECT_EQ(x.permute({1, 0}).shape(), (Shape{3, 2}));
  EXPECT_EQ(x.reshape({3, -1}).shape(), (Shape{3, 2}));
  EXPECT_EQ(x.view({6}).flatten().shape(), (Shape{6}));
  EXPECT_EQ(x.unsqueeze(0).squeeze().shape(), (Shape{2, 3}));
  EXPECT_EQ(x.unsqueeze(0).squeeze(0).shape(), (Shape{2, 3}));
  EXPECT_TRUE(x.t().contiguous().value().contiguous());
  EXPECT_DOUBLE_EQ(x.sum().item(), 21);
  EXPECT_EQ(x.mean({0}, true).to_vector<double>(), (std::vector<double>{2.5, 3.5, 4.5}));
  EXPECT_EQ(x.matmul(x.t()).shape(), (Shape{2, 2}));
  x.matmul(x.t()).sum().backward();
  EXPECT_EQ(x.grad().to_vector<double>(), (std::vector<double>{10, 14, 18, 10, 14, 18}));
  EXPECT_NE(message_of([&] { x.size(2); }).find("size"), std::string::npos);
  EXPECT_NE(message_of([&] { x.unsqueeze(0).t(); }).find("[1, 2, 3]"), std::string::npos);
}

}  // namespace
}  // namespace lockstep
