#include "lockstep/nn/models/resnet.h"

#include <gtest/gtest.h>

#include <cmath>

#include "lockstep/autograd/ops.h"
#include "lockstep/nn/optim.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "support/gradient_check.h"

namespace lockstep::nn {
namespace {

// [batch, 3, size, size], channels-last in memory.
Tensor images(int64_t batch, int64_t size) {
  const Array rows = kernels::cast(testing::random_array({batch, size, size, 3}, 1), DType::f32);
  return permute(Tensor(rows), {0, 3, 1, 2});
}

// Every gradient is there and finite, and a step against it lowers the loss.
void expect_trains(ResNet model, const Tensor& x, double learning_rate) {
  model.place({.seed = 1});
  const Tensor labels(Array::from<int64_t>({1, 3}, {2}));
  const Tensor first = cross_entropy(model(x), labels);
  first.backward();
  for (const auto& [name, parameter] : model.named_parameters()) {
    ASSERT_TRUE(parameter.grad()) << name;
    for (float value : parameter.grad().to_vector<float>())
      ASSERT_TRUE(std::isfinite(value)) << name;
  }
  optim::SGD(model.parameters(), {.learning_rate = learning_rate}).step();
  EXPECT_LT(cross_entropy(model(x), labels).item(), first.item());
}

TEST(ResNet, SmallImagesTrain) {
  expect_trains(resnet18({.num_classes = 10, .small_images = true}), images(2, 32), 1e-2);
}

TEST(ResNet, LargeImagesTrain) {
  expect_trains(resnet18({.num_classes = 10}), images(2, 224), 1e-2);
}

TEST(ResNet, BottlenecksTrain) {
  expect_trains(resnet50({.num_classes = 10, .small_images = true}), images(2, 32), 1e-3);
}

TEST(ResNet, SizesAreThoseOfThePaper) {
  EXPECT_EQ(resnet18().parameter_count(), 11689512);
  EXPECT_EQ(resnet50().parameter_count(), 25557032);
  ResNet small = resnet18({.num_classes = 10, .small_images = true});
  EXPECT_EQ(small.parameter_count(), 11173962);
  EXPECT_THROW(small(Tensor(Array::zeros({1, 1, 32, 32}, DType::f32))), Error);
}

TEST(ResNet, ZeroInitialisedBlocksStartAsTheIdentity) {
  ResidualBlock block(8, 8, {.zero_init = true});
  block.place({.dtype = DType::f64, .seed = 1});
  const Tensor x = relu(Tensor(testing::random_array({2, 8, 4, 4}, 1)));
  EXPECT_EQ(block(x).to_vector<double>(), x.to_vector<double>());
  ResidualBlock usual(8, 8, {});
  usual.place({.dtype = DType::f64, .seed = 1});
  EXPECT_NE(usual(x).to_vector<double>(), x.to_vector<double>());
}

}  // namespace
}  // namespace lockstep::nn
