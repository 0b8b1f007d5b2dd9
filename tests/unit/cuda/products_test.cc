#include <gtest/gtest.h>

#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/ops.h"
#include "lockstep/nn/models/resnet.h"
#include "lockstep/runtime/plugin.h"
#include "simulated/recorder.h"
#include "support/device_check.h"

// What cuBLASLt and cuDNN are asked for by the layers of GPT-2 and ResNet, forward and backward.
// For the simulated device alone, whose libraries write down what they are asked.
namespace lockstep {
namespace {

class SimulatedProducts : public ::testing::Test {
 protected:
  SimulatedProducts() {
    test::device_kernels();
    const Plugin library = open_plugin("liblockstep_cuda.so");
    blas_ = library.function<simulated::BlasRecorderFunction>(simulated::kBlasRecorderFunction)();
    dnn_ = library.function<simulated::DnnRecorderFunction>(simulated::kDnnRecorderFunction)(0);
    blas_->products.clear();
    dnn_->calls.clear();
    blas_->records = dnn_->accepts = true;
  }
  ~SimulatedProducts() override { blas_->records = dnn_->accepts = false; }

  static Tensor leaf(Shape shape) {
    Tensor tensor(Array::zeros(shape, DType::bf16, test::device()));
    tensor.requires_grad_();
    return tensor;
  }

  simulated::BlasRecorder* blas_;
  simulated::DnnRecorder* dnn_;
};

// Nothing is copied on the way: operands are the arrays themselves, transposed in name only.
void expect_product(const cuda::Product& p, int64_t m, int64_t n, int64_t k, bool a_transposed,
                    bool b_transposed) {
  EXPECT_EQ(p.m, m);
  EXPECT_EQ(p.n, n);
  EXPECT_EQ(p.k, k);
  EXPECT_EQ(p.batch, 1);
  EXPECT_EQ(p.a.transposed, a_transposed);
  EXPECT_EQ(p.b.transposed, b_transposed);
  EXPECT_EQ(p.a.leading, a_transposed ? m : k);
  EXPECT_EQ(p.b.leading, b_transposed ? k : n);
  EXPECT_EQ(p.c.leading, n);
  EXPECT_EQ(p.a.dtype, DType::bf16);
  EXPECT_EQ(p.c.dtype, DType::bf16);
}

// GPT-2 124M: the four linear layers of a block and the output layer, with a vocabulary that is a
// multiple of 64.
TEST_F(SimulatedProducts, LinearLayersOfGpt2) {
  constexpr int64_t kTokens = 32;
  const int64_t layers[][2] = {{768, 2304}, {768, 768}, {768, 3072}, {3072, 768}, {768, 50304}};
  for (const auto& [in, out] : layers) {
    SCOPED_TRACE(std::to_string(in) + " to " + std::to_string(out));
    blas_->products.clear();
    const Tensor x = leaf({2, kTokens / 2, in}), w = leaf({out, in});
    const Tensor bias = out == 50304 ? Tensor() : leaf({out});
    const Tensor y = linear(x, w, bias);
    ASSERT_EQ(blas_->products.size(), 1u);
    const cuda::Product forward = blas_->products[0];
    expect_product(forward, kTokens, out, in, false, true);
    EXPECT_EQ(forward.a.data, x.value().data());
    EXPECT_EQ(forward.b.data, w.value().data());
    EXPECT_EQ(forward.beta, 0);
    EXPECT_EQ(forward.epilogue, bias ? cuda::Epilogue::bias : cuda::Epilogue::none);
    EXPECT_EQ(forward.bias, bias ? bias.value().data() : nullptr);
    y.backward(Tensor(Array::zeros(y.shape(), DType::bf16, test::device())));
    ASSERT_EQ(blas_->products.size(), 3u);
    for (const cuda::Product& p : {blas_->products[1], blas_->products[2]}) {
      p.m == kTokens ? expect_product(p, kTokens, in, out, false, false)  // dx = dy w
                     : expect_product(p, out, in, kTokens, true, false);  // dw = dy' x
    }
  }
}

// GPT-2's own vocabulary is odd: rows of logits lie further apart than they are long, from the
// product that makes them to the products that read their gradient, which takes their place.
TEST_F(SimulatedProducts, OutputLayerOfGpt2) {
  constexpr int64_t kTokens = 32, kWidth = 768, kVocabulary = 50257, kApart = 50304;
  constexpr int64_t kEven = 50256;  // what is over is a product of its own
  const Tensor targets(Array::zeros({kTokens}, DType::i64, test::device()));
  for (const auto& [dtype, held] : {std::pair(DType::bf16, false), std::pair(DType::bf16, true),
                                    std::pair(DType::f32, false), std::pair(DType::f32, true)}) {
    const auto zeros = [&](Shape shape) {
      return Tensor::variable(Array::zeros(shape, dtype, test::device()));
    };
    const Tensor x = zeros({2, kTokens / 2, kWidth}), w = zeros({kVocabulary, kWidth});
    blas_->products.clear();
    Tensor loss, kept;
    {
      const Autocast autocast;
      const Tensor logits = linear(x, w);
      loss = cross_entropy(flatten(logits, 0, 1), targets);
      if (held) kept = logits;
    }
    loss.backward();
    ASSERT_EQ(blas_->products.size(), 6u);
    const auto at = [](const cuda::Product::Operand& x) { return static_cast<char*>(x.data); };
    const cuda::Product &forward = blas_->products[0], &over = blas_->products[1];
    EXPECT_EQ(forward.n, kEven);
    EXPECT_EQ(over.n, kVocabulary - kEven);
    EXPECT_EQ(at(over.b) - at(forward.b), 2 * kEven * kWidth);
    EXPECT_EQ(at(over.c) - at(forward.c), 2 * kEven);
    EXPECT_EQ(forward.c.leading, kApart);
    for (const size_t i : {2u, 4u}) {
      const cuda::Product &p = blas_->products[i], &rest = blas_->products[i + 1];
      EXPECT_EQ(p.n, kWidth);
      EXPECT_EQ(p.m + p.k, kTokens + kEven);
      EXPECT_EQ(rest.m + rest.k, kTokens + kVocabulary - kEven);
      EXPECT_EQ(p.a.transposed, p.m == kEven);
      EXPECT_EQ(p.a.leading, kApart);
      EXPECT_EQ(p.a.dtype, DType::bf16);
      EXPECT_EQ(p.a.data == forward.c.data, !held);
      EXPECT_EQ(p.a.data, blas_->products[2].a.data);
      const bool sums = p.k == kEven;
      EXPECT_EQ(at(rest.a) - at(p.a), 2 * kEven);
      EXPECT_EQ(at(rest.b) - at(p.b), sums ? 2 * kEven * kWidth : 0);
      EXPECT_EQ(at(rest.c) - at(p.c),
                sums ? 0 : kEven * kWidth * static_cast<int64_t>(size_of(p.c.dtype)));
      EXPECT_EQ(p.c.dtype, sums ? DType::f32 : p.c.dtype);
      EXPECT_EQ(rest.beta, sums ? 1 : 0);
    }
  }
}

// A second backward pass adds to the gradient in the product itself.
TEST_F(SimulatedProducts, GradientsAccumulateInTheProduct) {
  const Tensor x(Array::zeros({32, 768}, DType::bf16, test::device()));
  const Tensor w = leaf({3072, 768});
  for (const double beta : {0.0, 1.0}) {
    blas_->products.clear();
    const Tensor y = linear(x, w);
    y.backward(Tensor(Array::zeros(y.shape(), DType::bf16, test::device())));
    ASSERT_EQ(blas_->products.size(), 2u);
    EXPECT_EQ(blas_->products[1].beta, beta);
    EXPECT_EQ(blas_->products[1].c.data, w.grad().value().data());
  }
}

// The feed-forward part of a block under autocast: six products and no kernel between them.
TEST_F(SimulatedProducts, FeedForwardOfGpt2) {
  constexpr int64_t kTokens = 32, kWidth = 768, kHidden = 3072;
  using cuda::Epilogue;
  const auto parameter = [](Shape shape) {
    return Tensor::variable(Array::zeros(shape, DType::f32, test::device()));
  };
  const Tensor x = leaf({2, kTokens / 2, kWidth});
  const Tensor w1 = parameter({kHidden, kWidth}), b1 = parameter({kHidden});
  const Tensor w2 = parameter({kWidth, kHidden}), b2 = parameter({kWidth});
  for (const double beta : {0.0, 1.0}) {
    blas_->products.clear();
    Tensor y;
    {
      const Autocast autocast(DType::bf16);
      y = feed_forward(x, w1, b1, w2, b2, {.form = GeluForm::tanh});
    }
    y.backward(Tensor(Array::zeros(y.shape(), DType::bf16, test::device())));
    const std::vector<cuda::Product>& all = blas_->products;
    ASSERT_EQ(all.size(), 6u);
    const Epilogue epilogues[] = {Epilogue::gelu,          Epilogue::bias,
                                  Epilogue::bias_gradient, Epilogue::gelu_backward_bias_gradient,
                                  Epilogue::none,          Epilogue::none};
    for (int i = 0; i < 6; ++i) EXPECT_EQ(all[i].epilogue, epilogues[i]) << i;
    expect_product(all[0], kTokens, kHidden, kWidth, false, true);
    expect_product(all[1], kTokens, kWidth, kHidden, false, true);
    expect_product(all[3], kTokens, kHidden, kWidth, false, false);
    expect_product(all[5], kTokens, kWidth, kHidden, false, false);
    EXPECT_EQ(all[1].a.data, all[0].c.data);
    EXPECT_EQ(all[2].b.data, all[0].c.data);
    EXPECT_EQ(all[3].auxiliary, all[0].auxiliary);
    EXPECT_EQ(all[3].c.data, all[0].c.data) << "gelu's values have been used";
    EXPECT_EQ(all[4].c.data, w1.grad().value().data());
    EXPECT_EQ(all[2].c.data, w2.grad().value().data());
    for (const int i : {2, 4}) {  // the weights' gradients, in f32 where they belong
      EXPECT_EQ(all[i].c.dtype, DType::f32);
      EXPECT_EQ(all[i].beta, beta);
      EXPECT_EQ(all[i].a.dtype, DType::bf16);
    }
    EXPECT_EQ(all[2].bias == b2.grad().value().data(), beta == 0);
    EXPECT_EQ(all[2].bias_dtype, DType::f32);
    EXPECT_EQ(all[3].bias_dtype, DType::bf16);
  }
}

// ResNet's images are channels-last from the first layer to the last, and reach cuDNN so.
TEST_F(SimulatedProducts, ConvolutionsOfResNet) {
  struct Layer {
    int64_t in, out, side, kernel, stride;
  };
  for (const Layer& layer :
       {Layer{3, 64, 224, 7, 2}, Layer{64, 64, 56, 1, 1}, Layer{64, 64, 56, 3, 1},
        Layer{128, 128, 56, 3, 2}, Layer{1024, 2048, 14, 1, 2}}) {
    SCOPED_TRACE(std::to_string(layer.in) + " to " + std::to_string(layer.out));
    dnn_->calls.clear();
    const Tensor last = leaf({1, layer.side, layer.side, layer.in});
    const Tensor x = permute(last, {0, 3, 1, 2});
    const Tensor w = leaf({layer.out, layer.in, layer.kernel, layer.kernel});
    const int64_t padding = layer.kernel / 2;
    const Tensor y = conv2d(x, w, {}, {.stride = {layer.stride}, .padding = {padding}});
    ASSERT_EQ(dnn_->calls.size(), 1u);
    for (const View& image : {dnn_->calls[0].views[0], dnn_->calls[0].views.back()}) {
      EXPECT_EQ(image.strides[1], 1);
      EXPECT_EQ(image.strides[3], image.shape[1]);
    }
    y.backward(Tensor(Array::zeros(y.shape(), DType::bf16, test::device())));
    EXPECT_EQ(dnn_->calls.size(), 3u);
  }
}

// The two gradients that meet at a block's input: the second, of its first convolution, is added to
// the other one where that lies, in a product.
TEST_F(SimulatedProducts, GradientsThatMeetInResNet) {
  constexpr int64_t kImages = 2, kSide = 6, kIn = 256, kInside = 128, kOut = 512;
  const auto block = [](int64_t in, int64_t stride) {
    nn::ResidualBlock result(in, kInside, {.bottleneck = true, .stride = stride});
    result.place({.device = test::device(), .seed = 1});
    return result;
  };
  nn::ResidualBlock samples_down = block(kIn, 2), plain = block(kOut, 1);
  const Tensor x = permute(leaf({kImages, kSide, kSide, kIn}), {0, 3, 1, 2});
  Tensor y;
  {
    const Autocast autocast(DType::bf16);
    y = plain(samples_down(x));
  }
  dnn_->calls.clear();
  y.backward(Tensor(Array::zeros(y.shape(), DType::bf16, test::device())));
  ASSERT_EQ(blas_->products.size(), 2u);
  expect_product(blas_->products[0], kImages * kSide * kSide / 4, kOut, kInside, false, false);
  expect_product(blas_->products[1], kImages * kSide * kSide, kIn, kInside, false, false);
  const void* of_shortcut = nullptr;
  int input_gradients = 0;
  for (const simulated::DnnCall& call : dnn_->calls) {
    if (call.name != "convolution_input_gradient") continue;
    ++input_gradients;
    EXPECT_EQ(call.beta, 0);
    if (call.views[2].shape[1] == kIn) of_shortcut = call.views[2].data;
  }
  EXPECT_EQ(input_gradients, 2 + 3);
  for (const cuda::Product& product : blas_->products) EXPECT_EQ(product.beta, 1);
  EXPECT_EQ(blas_->products[1].c.data, of_shortcut);
}

}  // namespace
}  // namespace lockstep
