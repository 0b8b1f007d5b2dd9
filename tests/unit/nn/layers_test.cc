#include "lockstep/nn/layers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "lockstep/autograd/checkpoint.h"
#include "support/gradient_check.h"

namespace lockstep::nn {
namespace {

Tensor random_tensor(const Shape& shape, uint64_t seed) {
  return Tensor(testing::random_array(shape, seed));
}

void expect_near(const Tensor& a, const Tensor& b, double tolerance = 1e-12) {
  ASSERT_EQ(a.shape(), b.shape());
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  for (size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(x[i], y[i], tolerance) << "element " << i;
}

template <class M>
M placed(M module, uint64_t seed = 1) {
  module.place({.dtype = DType::f64, .seed = seed});
  return module;
}

TEST(Layers, AttentionSeesOnlyWhatIsBefore) {
  CausalSelfAttention attention(8, 2);
  attention.place({.dtype = DType::f64, .seed = 2});
  const Array x = testing::random_array({1, 5, 8}, 3);
  const auto before = attention(Tensor(x)).to_vector<double>();
  x.data<double>()[4 * 8] += 1;  // the last position
  const auto after = attention(Tensor(x)).to_vector<double>();
  EXPECT_TRUE(std::equal(before.begin(), before.begin() + 4 * 8, after.begin()));
  EXPECT_NE(before[4 * 8], after[4 * 8]);
  EXPECT_THROW(CausalSelfAttention(8, 3), Error);
}

TEST(Layers, ErrorsNameTheOpAndTheShapes) {
  Linear layer(4, 2);
  try {
    layer(Tensor(Array::zeros({3, 5}, DType::f32)));
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(),
                ::testing::HasSubstr("linear: input of shape [3, 5] and weight of shape [2, 4]"));
  }
}

TEST(Layers, ShapesOfConvolutionsAndPools) {
  const Tensor image = random_tensor({2, 4, 9, 8}, 1), line = random_tensor({2, 4, 9}, 1);
  EXPECT_EQ(
      placed(Conv2d(4, 6, {3}, {.stride = {2, 1}, .padding = {1}, .groups = 2}))(image).shape(),
      (Shape{2, 6, 5, 8}));
  EXPECT_EQ(placed(Conv2d(4, 6, {2, 3}, {.same = true}))(image).shape(), (Shape{2, 6, 9, 8}));
  EXPECT_EQ(placed(Conv1d(4, 5, {3}, {.dilation = {2}}))(line).shape(), (Shape{2, 5, 5}));
  EXPECT_EQ(placed(Conv3d(4, 5, {2}))(random_tensor({2, 4, 3, 4, 5}, 1)).shape(),
            (Shape{2, 5, 2, 3, 4}));
  EXPECT_EQ(
      placed(ConvTranspose2d(4, 6, {3}, {.stride = {2}, .output_padding = {1, 0}}))(image).shape(),
      (Shape{2, 6, 20, 17}));
  EXPECT_EQ(placed(ConvTranspose1d(4, 2, {3}))(line).shape(), (Shape{2, 2, 11}));
  EXPECT_EQ(MaxPool2d({2}, {.ceil_mode = true})(image).shape(), (Shape{2, 4, 5, 4}));
  EXPECT_EQ(MaxPool1d({3}, {.stride = {1}})(line).shape(), (Shape{2, 4, 7}));
  EXPECT_EQ(AvgPool2d({3, 2})(image).shape(), (Shape{2, 4, 3, 4}));
  EXPECT_EQ(AvgPool1d({3})(line).shape(), (Shape{2, 4, 3}));
  EXPECT_EQ(AdaptiveAvgPool2d({1, 2})(image).shape(), (Shape{2, 4, 1, 2}));
  EXPECT_EQ(Upsample({.scale_factor = {2}})(image).shape(), (Shape{2, 4, 18, 16}));
  EXPECT_EQ(Flatten()(image).shape(), (Shape{2, 288}));
  EXPECT_THROW(Conv2d(4, 6, {3}, {.groups = 4}), Error);
  EXPECT_THROW(Conv2d(4, 6, {3, 3, 3}), Error);
  EXPECT_THROW(Conv2d(4, 6, {0}), Error);
  EXPECT_THROW(placed(Conv2d(3, 6, {3}))(image), Error);
}

TEST(Layers, ActivationsAreTheFunctions) {
  const Tensor x = random_tensor({2, 5}, 1) * 4.0;
  expect_near(ReLU()(x), relu(x));
  expect_near(GELU(GeluForm::tanh)(x), gelu(x, GeluForm::tanh));
  expect_near(SiLU()(x), silu(x));
  expect_near(Mish()(x), mish(x));
  expect_near(ELU(0.5)(x), elu(x, 0.5));
  expect_near(SELU()(x), selu(x));
  expect_near(CELU(2)(x), celu(x, 2));
  expect_near(LeakyReLU(0.3)(x), leaky_relu(x, 0.3));
  expect_near(Hardtanh(-0.5, 2)(x), hardtanh(x, -0.5, 2));
  expect_near(Hardswish()(x), hardswish(x));
  expect_near(Hardsigmoid()(x), hardsigmoid(x));
  expect_near(Softplus(2, 1)(x), softplus(x, 2, 1));
  expect_near(Softsign()(x), softsign(x));
  expect_near(Sigmoid()(x), sigmoid(x));
  expect_near(Tanh()(x), tanh(x));
  expect_near(LogSigmoid()(x), logsigmoid(x));
  expect_near(Softmax(0)(x), softmax(x, 0));
  expect_near(LogSoftmax()(x), log_softmax(x, -1));
  expect_near(Identity()(x), x);
}

TEST(Layers, LossesTakeTheirOptions) {
  const Tensor x = random_tensor({4, 3}, 1), y = random_tensor({4, 3}, 2);
  const Tensor labels(Array::from<int64_t>({0, 2, 1, 1}, {4}));
  EXPECT_EQ(MSELoss(Reduction::none)(x, y).shape(), (Shape{4, 3}));
  expect_near(L1Loss(Reduction::sum)(x, y), l1_loss(x, y, Reduction::sum));
  expect_near(SmoothL1Loss(Reduction::mean, 0.1)(x, y), smooth_l1_loss(x, y, Reduction::mean, 0.1));
  expect_near(HuberLoss(Reduction::mean, 0.1)(x, y), huber_loss(x, y, Reduction::mean, 0.1));
  expect_near(CrossEntropyLoss({.label_smoothing = 0.2})(x, labels),
              cross_entropy(x, labels, {.label_smoothing = 0.2}));
  expect_near(NLLLoss({.ignore_index = 2})(x, labels), nll_loss(x, labels, {.ignore_index = 2}));
  expect_near(BCEWithLogitsLoss({.reduction = Reduction::sum})(x, sigmoid(y)),
              BCELoss({.reduction = Reduction::sum})(sigmoid(x), sigmoid(y)), 1e-10);
  expect_near(KLDivLoss(Reduction::batchmean, true)(x, y),
              kl_div(x, y, Reduction::batchmean, true));
}

TEST(Embedding, ThePaddingRowIsZeroAndTakesNoGradient) {
  Embedding table = placed(Embedding(5, 3, {.padding_idx = -2}));
  const Tensor ids(Array::from<int64_t>({3, 1}, {2}));
  const Tensor y = table(ids);
  EXPECT_EQ(select(y, 0, 0).to_vector<double>(), (std::vector<double>{0, 0, 0}));
  sum(y).backward();
  EXPECT_EQ(table.weight.grad().to_vector<double>(),
            (std::vector<double>{0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
  EXPECT_THROW(Embedding(5, 3, {.padding_idx = 5}), Error);
}

TEST(BatchNorm, RunningStatisticsFollowTheMomentum) {
  const Tensor x = random_tensor({6, 2, 3}, 1), z = random_tensor({6, 2, 3}, 2) + 1.0;
  BatchNorm1d norm = placed(BatchNorm1d(2, {.momentum = 0.25}));
  norm(x);
  expect_near(norm.running_mean.array(), mean(x, {0, 2}) * 0.25);
  expect_near(norm.running_var.array(), var(x, {0, 2}) * 0.25 + 0.75);
  BatchNorm1d average = placed(BatchNorm1d(2, {.momentum = {}}));
  average(x);
  average(z);
  expect_near(average.running_mean.array(), (mean(x, {0, 2}) + mean(z, {0, 2})) * 0.5);
  EXPECT_EQ(average.num_batches_tracked.array().item(), 2);
  average.eval();
  const Tensor y = average(x);
  EXPECT_EQ(average.num_batches_tracked.array().item(), 2);
  const auto shaped = [](const Array& a) { return reshape(Tensor(a), {1, 2, 1}); };
  expect_near(y,
              (x - shaped(average.running_mean.array())) *
                  rsqrt(shaped(average.running_var.array()) + 1e-5),
              1e-10);
}

TEST(BatchNorm, WithoutTrackingEvaluationUsesTheBatch) {
  BatchNorm2d norm = placed(BatchNorm2d(2, {.affine = false, .track_running_stats = false}));
  const Tensor x = random_tensor({3, 2, 4, 4}, 1);
  const Tensor trained = norm(x);
  norm.eval();
  expect_near(norm(x), trained);
  expect_near(mean(norm(x), {0, 2, 3}), Tensor(Array::zeros({2}, DType::f64)));
  EXPECT_THROW(norm(random_tensor({3, 2, 4}, 1)), Error);
  EXPECT_THROW(norm(random_tensor({3, 3, 4, 4}, 1)), Error);
}

TEST(BatchNorm, RecomputationCountsOnce) {
  BatchNorm1d norm = placed(BatchNorm1d(3)), plain = placed(BatchNorm1d(3));
  const Tensor x = Tensor::variable(testing::random_array({5, 3}, 1));
  sum(square(plain(x) * x)).backward();
  const auto expected = x.grad().to_vector<double>();
  x.zero_grad();
  sum(square(checkpoint([&](const Tensor& in) { return norm(in) * in; }, x))).backward();
  EXPECT_EQ(norm.num_batches_tracked.array().item(), 1);
  expect_near(norm.running_mean.array(), plain.running_mean.array());
  const auto actual = x.grad().to_vector<double>();
  for (size_t i = 0; i < actual.size(); ++i) EXPECT_NEAR(actual[i], expected[i], 1e-10);
}

// In one op, computed again or not.
TEST(BatchNorm, WithTheReluAndTheSumThatFollow) {
  const Array x = testing::random_array({5, 3, 2, 2}, 1),
              r = testing::random_array({5, 3, 2, 2}, 2);
  const auto pass = [&](const auto& f) {
    BatchNorm2d norm = placed(BatchNorm2d(3));
    const Tensor in = Tensor::variable(x), residual = Tensor::variable(r);
    const Tensor y = f(norm, in, residual);
    sum(square(y)).backward();
    EXPECT_EQ(norm.num_batches_tracked.array().item(), 1);
    return std::vector<Tensor>{y.detach(),
                               in.grad(),
                               residual.grad(),
                               norm.weight.grad(),
                               norm.bias.grad(),
                               Tensor(norm.running_mean.array()),
                               Tensor(norm.running_var.array())};
  };
  const auto expected = pass([](BatchNorm2d& norm, const Tensor& in, const Tensor& residual) {
    return relu(norm(in) + residual);
  });
  for (const bool recomputes : {false, true}) {
    const auto found = pass([&](BatchNorm2d& norm, const Tensor& in, const Tensor& residual) {
      norm.set_recompute(recomputes);
      return norm(in, Activation::relu, residual);
    });
    for (size_t i = 0; i < expected.size(); ++i) expect_near(found[i], expected[i]);
  }
}

}  // namespace
}  // namespace lockstep::nn
