#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "lockstep/runtime/plugin.h"
#include "simulated/recorder.h"
#include "support/device_check.h"

// Whether the library or our own kernels compute. For the simulated device alone, whose library is
// told what to do.
namespace lockstep {
namespace {

using ::testing::internal::CaptureStderr;
using ::testing::internal::GetCapturedStderr;

class SimulatedDnnChoice : public ::testing::Test {
 protected:
  void SetUp() override {
    test::device_kernels();
    recorder_ = open_plugin("liblockstep_cuda.so")
                    .function<simulated::DnnRecorderFunction>(simulated::kDnnRecorderFunction)(0);
    ASSERT_NE(recorder_, nullptr);
    recorder_->calls.clear();
  }
  void TearDown() override {
    if (recorder_ != nullptr) recorder_->accepts = false;
    unsetenv("LOCKSTEP_LOG_LEVEL");
  }
  // Attention over arrays of ones; what it left where there were zeros.
  double attend(int64_t queries, DType dtype, int64_t features) {
    const auto ones = [&](int64_t time) {
      return test::on_device(Array::full({1, 1, time, features}, 1, dtype));
    };
    const Array q = ones(queries), k = ones(32), v = ones(32);
    const Array out = test::on_device(Array::zeros({1, 1, queries, features}, dtype));
    const Array log_sum_exp = test::on_device(Array::zeros({1, 1, queries}, DType::f32));
    test::device_kernels().attention(q.view(), k.view(), v.view(), {false, 1.0}, out.view(),
                                     log_sum_exp.view());
    return test::on_host(out).to_vector<double>()[0];
  }

  simulated::DnnRecorder* recorder_ = nullptr;
};

TEST_F(SimulatedDnnChoice, TheLibraryComesFirst) {
  recorder_->accepts = true;
  EXPECT_EQ(attend(32, DType::bf16, 8), 0);
  ASSERT_EQ(recorder_->calls.size(), 1u);
  EXPECT_EQ(recorder_->calls[0].name, "attention");
  EXPECT_EQ(recorder_->calls[0].views[0].shape[2], 32);
}

TEST_F(SimulatedDnnChoice, OurOwnKernelComputesWhatItRefuses) {
  EXPECT_EQ(attend(32, DType::bf16, 8), 1);
  EXPECT_EQ(recorder_->calls.size(), 1u);
}

// Each length would be another plan of the library's.
TEST_F(SimulatedDnnChoice, DecodingIsNotAskedFor) {
  recorder_->accepts = true;
  EXPECT_EQ(attend(1, DType::bf16, 8), 1);
  EXPECT_TRUE(recorder_->calls.empty());
}

TEST_F(SimulatedDnnChoice, IsToldOnceForEachKindOfProblem) {
  setenv("LOCKSTEP_LOG_LEVEL", "info", 1);
  CaptureStderr();
  for (int i = 0; i < 3; ++i) attend(32, DType::f16, 11);
  const std::string said = GetCapturedStderr();
  EXPECT_EQ(
      said,
      "lockstep: attention of f16, head size 11: by our own kernel, cuDNN does not take it\n");
}

TEST_F(SimulatedDnnChoice, ConvolutionsAndTheirBeta) {
  recorder_->accepts = true;
  const Array x = test::on_device(Array::full({1, 2, 4, 4}, 1, DType::f32));
  const Array w = test::on_device(Array::full({3, 2, 1, 1}, 1, DType::f32));
  const Array y = test::on_device(Array::zeros({1, 3, 4, 4}, DType::f32));
  Kernels& kernels = test::device_kernels();
  kernels.convolution(x.view(), w.view(), {}, y.view());
  kernels.convolution_input_gradient(y.view(), w.view(), {}, x.view(), 0.5);
  kernels.convolution_weight_gradient(y.view(), x.view(), {}, w.view(), 1);
  ASSERT_EQ(recorder_->calls.size(), 3u);
  EXPECT_EQ(recorder_->calls[0].name, "convolution");
  EXPECT_EQ(recorder_->calls[1].name, "convolution_input_gradient");
  EXPECT_EQ(recorder_->calls[1].beta, 0.5);
  EXPECT_EQ(recorder_->calls[2].name, "convolution_weight_gradient");
  EXPECT_EQ(recorder_->calls[2].beta, 1);
}

// Where an input gradient is added to something and each place of the images is seen by itself, it
// is a product.
TEST_F(SimulatedDnnChoice, AddedInputGradientsAreProducts) {
  const auto blas =
      open_plugin("liblockstep_cuda.so")
          .function<simulated::BlasRecorderFunction>(simulated::kBlasRecorderFunction)();
  struct Kind {
    double beta;
    int64_t kernel;
    WindowOptions options;
    bool channels_last, is_product;
  };
  const Kind kinds[] = {{1, 1, {}, true, true},
                        {0.5, 1, {}, true, true},
                        {0, 1, {}, true, false},
                        {1, 1, {}, false, false},
                        {1, 1, {.stride = {2, 2}}, true, false},
                        {1, 1, {.groups = 2}, true, false},
                        {1, 3, {.padding = {1, 1}}, true, false}};
  for (const Kind& kind : kinds) {
    blas->products.clear();
    blas->records = recorder_->accepts = true;
    recorder_->calls.clear();
    const int64_t side = kind.options.stride[0] == 1 ? 6 : 3;
    const auto image = [&](int64_t channels, int64_t edge) {
      const Shape shape =
          kind.channels_last ? Shape{2, edge, edge, channels} : Shape{2, channels, edge, edge};
      const Array all = test::on_device(Array::zeros(shape, DType::bf16));
      return kind.channels_last ? all.transpose(1, 3).transpose(2, 3) : all;
    };
    const Array dx = image(8, 6), dy = image(4, side);
    const Array w = test::on_device(
        Array::zeros({4, 8 / kind.options.groups, kind.kernel, kind.kernel}, DType::bf16));
    test::device_kernels().convolution_input_gradient(dy.view(), w.view(), kind.options, dx.view(),
                                                      kind.beta);
    blas->records = false;
    ASSERT_EQ(blas->products.size(), kind.is_product ? 1u : 0u);
    ASSERT_EQ(recorder_->calls.size(), kind.is_product ? 0u : 1u);
    if (!kind.is_product) {
      EXPECT_EQ(recorder_->calls[0].beta, kind.beta);
      continue;
    }
    const cuda::Product& product = blas->products[0];
    EXPECT_EQ(product.m, 2 * 6 * 6);
    EXPECT_EQ(product.n, 8);
    EXPECT_EQ(product.k, 4);
    EXPECT_EQ(product.beta, kind.beta);
    EXPECT_EQ(product.c.data, dx.data());
  }
}

// Nothing to ask anybody for.
TEST_F(SimulatedDnnChoice, EmptyProblems) {
  recorder_->accepts = true;
  const Array x = test::on_device(Array::zeros({1, 0, 4, 4}, DType::f32));
  const Array w = test::on_device(Array::zeros({3, 0, 1, 1}, DType::f32));
  const Array y = test::on_device(Array::full({1, 3, 4, 4}, 5, DType::f32));
  test::device_kernels().convolution(x.view(), w.view(), {}, y.view());
  EXPECT_TRUE(recorder_->calls.empty());
  EXPECT_EQ(test::on_host(y).to_vector<double>()[7], 0);
}

}  // namespace
}  // namespace lockstep
