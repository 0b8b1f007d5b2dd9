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

void expect_near(const Tensor& found, const Tensor& expected, double tolerance) {
  ASSERT_EQ(found.shape(), expected.shape());
  const auto a = found.to_vector<double>(), b = expected.to_vector<double>();
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], tolerance);
}

Tensor block_of_ops(ResidualBlock& block, const Tensor& x) {
  Tensor y = block.bn2(block.conv2(relu(block.bn1(block.conv1(x)))));
  if (block.conv3) y = (*block.bn3)((*block.conv3)(relu(y)));
  return relu(y + (block.downsample ? block.downsample->bn(block.downsample->conv(x)) : x));
}

// Norms with their ReLU and the residual sum are one op each; the results are those of the ops.
TEST(ResNet, BlocksComputeWhatTheirOpsDo) {
  for (const bool bottleneck : {false, true}) {
    for (const int64_t stride : {1, 2}) {
      for (const bool trains : {true, false}) {
        const int64_t channels = bottleneck ? 2 : 8;
        ResidualBlock block(8, channels, {.bottleneck = bottleneck, .stride = stride});
        block.place({.dtype = DType::f64, .seed = 1});
        block.train(trains);
        const Tensor x = Tensor::variable(testing::random_array({3, 8, 6, 6}, 1));
        std::vector<Tensor> inputs{x};
        for (const Parameter& parameter : block.parameters()) inputs.push_back(parameter.tensor());
        const Tensor y = block(x), expected = block_of_ops(block, x);
        const Tensor seed(testing::random_array(y.shape(), 2));
        const auto found = grad({&y, 1}, inputs, {&seed, 1});
        const auto of_ops = grad({&expected, 1}, inputs, {&seed, 1});
        expect_near(y, expected, 1e-12);
        for (size_t i = 0; i < found.size(); ++i) {
          expect_near(found[i], of_ops[i], 1e-11);
        }
      }
    }
  }
}

}  // namespace
}  // namespace lockstep::nn
