#include <gtest/gtest.h>

#include "lockstep/autograd/ops.h"
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

// GPT-2 124M: the four linear layers of a block and the output layer.
TEST_F(SimulatedProducts, LinearLayersOfGpt2) {
  constexpr int64_t kTokens = 32;
  const int64_t layers[][2] = {{768, 2304}, {768, 768}, {768, 3072}, {3072, 768}, {768, 50257}};
  for (const auto& [in, out] : layers) {
    SCOPED_TRACE(std::to_string(in) + " to " + std::to_string(out));
    blas_->products.clear();
    const Tensor x = leaf({2, kTokens / 2, in}), w = leaf({out, in});
    const Tensor bias = out == 50257 ? Tensor() : leaf({out});
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

}  // namespace
}  // namespace lockstep
