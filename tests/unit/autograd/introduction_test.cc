// What an introduction to PyTorch begins with, written for Lockstep.
#include <gtest/gtest.h>

#include <sstream>

#include "lockstep/autograd/ops.h"

namespace lockstep {
namespace {

TEST(Introduction, TensorOnADevice) {
  const Device device = {DeviceKind::cpu};
  Tensor x = tensor({{1.0, 2.0}, {3.0, 4.0}});
  x = x.to(device);
  EXPECT_EQ(x.device(), device);
  EXPECT_EQ(x.shape(), (Shape{2, 2}));
  std::ostringstream out;
  out << x;
  EXPECT_EQ(out.str(), "tensor([[1., 2.],\n        [3., 4.]])");
}

TEST(Introduction, DerivativeOfAPolynomial) {
  const Tensor x = tensor(3.0, {.requires_grad = true});
  const Tensor y = x * x + 2 * x + 1;
  y.backward();
  EXPECT_EQ(y.item(), 16);
  EXPECT_EQ(x.grad().item(), 8);
}

TEST(Introduction, TwoLayers) {
  manual_seed(0);
  const Tensor w1 = (randn({128, 784}) * 0.05).detach().requires_grad_();
  const Tensor b1 = zeros({128}, {.requires_grad = true});
  const Tensor w2 = (randn({10, 128}) * 0.1).detach().requires_grad_();
  const Tensor b2 = zeros({10}, {.requires_grad = true});
  const auto network = [&](const Tensor& x) { return linear(relu(linear(x, w1, b1)), w2, b2); };

  const Tensor images = randn({32, 784});
  const Tensor labels = randint(10, {32});
  Tensor logits = network(images);
  EXPECT_EQ(logits.shape(), (Shape{32, 10}));
  const Tensor before = cross_entropy(logits, labels);
  before.backward();
  {
    const NoGrad no_grad;
    for (Tensor parameter : {w1, b1, w2, b2}) parameter -= 0.1 * parameter.grad();
  }
  EXPECT_LT(cross_entropy(network(images), labels).item(), before.item());
}

}  // namespace
}  // namespace lockstep
