#include "lockstep/autograd/ops/convolution.h"

#include "lockstep/autograd/record.h"
#include "lockstep/runtime/ops/convolution.h"
#include "support/gradient_check.h"
#include "support/window_reference.h"

namespace lockstep::testing {
namespace {

Tensor random_tensor(Shape shape, uint64_t seed, DType dtype = DType::f64) {
  return Tensor(random_array(shape, seed)).to(dtype).detach();
}

template <class F>
std::string error_of(const F& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

struct Form {
  const char* name;
  Shape x, w, y;
  ConvOptions options;
  WindowOptions window;  // of the reference; kernel and y follow
};

std::vector<Form> forms() {
  return {
      {"plain", {2, 2, 4, 3}, {3, 2, 2, 2}, {2, 3, 3, 2}, {}, {}},
      {"all options",
       {2, 4, 6, 5},
       {6, 2, 3, 2},
       {2, 6, 2, 5},
       {.stride = {3, 2}, .padding = {2, 3}, .dilation = {2, 1}, .groups = 2},
       {.stride = {3, 2}, .padding = {2, 3}, .dilation = {2, 1}, .groups = 2}},
      {"same, the odd one behind",
       {1, 2, 5, 4},
       {2, 2, 2, 3},
       {1, 2, 5, 4},
       {.dilation = {3, 1}, .same = true},
       {.padding = {1, 1}, .dilation = {3, 1}}},
      {"one entry for all",
       {1, 1, 5, 5},
       {1, 1, 3, 3},
       {1, 1, 3, 3},
       {.stride = {2}, .padding = {1}},
       {.stride = {2, 2}, .padding = {1, 1}}},
      {"line",
       {2, 2, 7},
       {4, 1, 3},
       {2, 4, 4},
       {.stride = {2}, .padding = {1}, .groups = 2},
       {.spatial = 1, .stride = {2}, .padding = {1}, .groups = 2}},
      {"volume",
       {1, 2, 3, 4, 3},
       {2, 2, 2, 2, 3},
       {1, 2, 2, 3, 3},
       {.padding = {0, 0, 1}},
       {.spatial = 3, .padding = {0, 0, 1}}},
  };
}

Tensor convolve(const Form& form, const Tensor& x, const Tensor& w, const Tensor& bias = {}) {
  if (form.window.spatial == 1) return conv1d(x, w, bias, form.options);
  if (form.window.spatial == 3) return conv3d(x, w, bias, form.options);
  return conv2d(x, w, bias, form.options);
}

TEST(Convolution, HasTheValuesOfPlainSums) {
  for (const Form& form : forms()) {
    SCOPED_TRACE(form.name);
    WindowOptions window = form.window;
    for (int i = 0; i < window.spatial; ++i) window.kernel[i] = form.w[2 + i];
    const Tensor x = random_tensor(form.x, 1), w = random_tensor(form.w, 2);
    const Tensor bias = random_tensor({form.w[0]}, 3);
    const Tensor y = convolve(form, x, w, bias);
    ASSERT_EQ(y.shape(), form.y);
    auto expected = WindowReference(form.x, form.w, form.y, window)
                        .convolution(x.to_vector<double>(), w.to_vector<double>());
    const auto found = y.to_vector<double>(), biases = bias.to_vector<double>();
    const size_t plane = expected.size() / static_cast<size_t>(form.y[0] * form.y[1]);
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(found[i], expected[i] + biases[i / plane % biases.size()], 1e-12);
    }
  }
}

TEST(Convolution, GradientsOfEveryOrder) {
  for (const Form& form : forms()) {
    SCOPED_TRACE(form.name);
    const Function f = [&](const std::vector<Tensor>& in) {
      return convolve(form, in[0], in[1], in[2]);
    };
    const std::vector<Array> inputs{random_array(form.x, 1), random_array(form.w, 2),
                                    random_array({form.w[0]}, 3)};
    expect_gradients(f, inputs);
    expect_second_gradients(f, inputs);
    expect_recorded_equals_fused(f, inputs);
  }
}

TEST(Convolution, GradientsOfAnImageUsedTwice) {
  for (const int64_t kernel : {1, 3}) {
    const Function f = [&](const std::vector<Tensor>& in) {
      const Tensor image = channels_last(in[0] * 1.0);
      const Tensor y = conv2d(image, in[1], {}, {.padding = {kernel / 2}});
      return y + conv2d(image, in[2], {}, {.padding = {kernel / 2}}) + image;
    };
    const std::vector<Array> inputs{random_array({2, 3, 3, 4}, 1),
                                    random_array({3, 3, kernel, kernel}, 2),
                                    random_array({3, 3, kernel, kernel}, 3)};
    expect_gradients(f, inputs);
    expect_second_gradients(f, inputs);
    expect_recorded_equals_fused(f, inputs);
  }
}

TEST(Convolution, TransposedIsTheGradientOfTheInput) {
  const std::vector<Array> inputs{random_array({2, 4, 3, 2}, 1), random_array({4, 3, 3, 2}, 2),
                                  random_array({6}, 3)};
  const Function f = [](const std::vector<Tensor>& in) {
    return conv_transpose2d(in[0], in[1], in[2],
                            {.stride = {2, 3},
                             .padding = {1, 0},
                             .output_padding = {1, 2},
                             .dilation = {1, 2},
                             .groups = 2});
  };
  EXPECT_EQ(f(variables(inputs)).shape(), (Shape{2, 6, 6, 8}));
  expect_gradients(f, inputs);
  expect_second_gradients(f, inputs);

  const Tensor x = Tensor::variable(random_array({1, 2, 5, 5}, 4));
  const Tensor w = random_tensor({3, 2, 3, 3}, 5), dy = random_tensor({1, 3, 3, 3}, 6);
  conv2d(x, w, {}, {.stride = {2}, .padding = {1}}).backward(dy);
  EXPECT_EQ(x.grad().to_vector<double>(),
            conv_transpose2d(dy, w, {}, {.stride = {2}, .padding = {1}}).to_vector<double>());
}

// The window reaches a whole stride short of the padded end.
TEST(Convolution, OutputPaddingMayReachTheDilation) {
  for (DType dtype : {DType::f64, DType::f32}) {
    const Tensor x = random_tensor({1, 2, 4}, 1, dtype), w = random_tensor({2, 2, 2}, 2, dtype);
    const Tensor y = conv_transpose1d(x, w, {}, {.output_padding = {2}, .dilation = {3}});
    EXPECT_EQ(y.shape(), (Shape{1, 2, 9}));
    const auto full = y.to_vector<double>();
    const auto plain = conv_transpose1d(x, w, {}, {.dilation = {3}}).to_vector<double>();
    for (size_t i = 0; i < full.size(); ++i) {
      EXPECT_NEAR(full[i], i % 9 < 7 ? plain[i / 9 * 7 + i % 9] : 0, 1e-6);
    }
  }
}

TEST(Convolution, TakesASingleImage) {
  const Tensor x = random_tensor({3, 5, 5}, 1), w = random_tensor({2, 3, 3, 3}, 2);
  const Tensor y = conv2d(x, w);
  EXPECT_EQ(y.shape(), (Shape{2, 3, 3}));
  EXPECT_EQ(y.to_vector<double>(), conv2d(unsqueeze(x, 0), w).to_vector<double>());
  EXPECT_EQ(conv_transpose2d(random_tensor({2, 3, 3}, 1), w).shape(), (Shape{3, 5, 5}));
}

TEST(Convolution, KeepsChannelsLast) {
  const Tensor x = channels_last(random_tensor({2, 3, 5, 6}, 1, DType::f32));
  EXPECT_TRUE(kernels::is_channels_last(x.value()));
  EXPECT_TRUE(channels_last(x).value().same_window(x.value()));
  const Tensor w = Tensor::variable(random_tensor({4, 3, 3, 3}, 2, DType::f32).value());
  const Tensor input = Tensor::variable(x.value());
  const Tensor y = conv2d(input, w, random_tensor({4}, 3, DType::f32));
  EXPECT_TRUE(kernels::is_channels_last(y.value()));
  EXPECT_TRUE(conv2d(kernels::contiguous(x.value()), w.detach()).value().contiguous());
  const Tensor dx = grad(sum(y), input);
  EXPECT_TRUE(kernels::is_channels_last(dx.value()));
  EXPECT_TRUE(kernels::is_channels_last(max_pool2d(x, {.kernel_size = {2}}).value()));
  EXPECT_TRUE(kernels::is_channels_last(avg_pool2d(x, {.kernel_size = {2}}).value()));
  expect_gradients([](const std::vector<Tensor>& in) { return square(channels_last(in[0])); },
                   {random_array({2, 3, 2, 2}, 1)});
}

TEST(Convolution, WeightGradientsAddUpInTheMemoryGiven) {
  const Tensor w = Tensor::variable(random_tensor({4, 3, 3, 3}, 1, DType::f32).value());
  const Array bucket = Array::full({120}, 99, DType::f32);
  auto& leaf = static_cast<Leaf&>(*w.node());
  leaf.seat_gradient(bucket.narrow(0, 6, 108).reshape({4, 3, 3, 3}));
  const Tensor x = random_tensor({2, 3, 5, 5}, 2, DType::f32);
  const Tensor dy = random_tensor({2, 4, 3, 3}, 3, DType::f32);
  conv2d(x, w).backward(dy);
  const auto once = w.grad().to_vector<double>();
  conv2d(x, w).backward(dy);
  const auto twice = w.grad().to_vector<double>(), all = bucket.to_vector<double>();
  for (size_t i = 0; i < once.size(); ++i) {
    EXPECT_NEAR(twice[i], 2 * once[i], 1e-5);
    EXPECT_EQ(all[6 + i], twice[i]);
  }
  EXPECT_EQ(all[5], 99);
  EXPECT_EQ(all[114], 99);
}

// What has been gathered of an image's gradient, as it lies, is what the convolution adds to; not
// where somebody else holds it.
TEST(Convolution, InputGradientsAddUpInPlace) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    for (const int64_t kernel : {1, 3}) {
      for (const bool held : {false, true}) {
        const Tensor dy = random_tensor({2, 6, 5, 4}, 3, dtype);
        const Tensor w = random_tensor({6, 3, kernel, kernel}, 2, dtype);
        const Tensor x =
            Tensor::variable(channels_last(random_tensor({2, 3, 5, 4}, 1, dtype)).value());
        const void *first = nullptr, *sum = nullptr;
        Tensor kept;
        const Tensor image =
            record({"image"}, x.value(), {&x}, [&](const Tensor& gradient, Gradients& out) {
              sum = gradient.value().data();
              out.add(0, gradient);
            });
        const Tensor y = conv2d(image, w, {}, {.padding = {kernel / 2}});
        const Tensor other =
            record({"other"}, image.value(), {&image}, [&](const Tensor& dother, Gradients& out) {
              const Tensor gradient = dother * 2.0;
              first = gradient.value().data();
              if (held) kept = gradient;
              out.add(0, gradient);
            });
        backward(std::vector{y, other}, std::vector{dy, x.detach()});
        EXPECT_EQ(first == sum, !held);
        const Tensor flows =
            conv_transpose2d(dy.to(DType::f64), w.to(DType::f64), {}, {.padding = {kernel / 2}});
        const auto expected = (x.detach().to(DType::f64) * 2.0 + flows).to_vector<double>();
        const auto found = x.grad().to_vector<double>();
        const double bound = dtype == DType::f64 ? 1e-12 : dtype == DType::f32 ? 1e-5 : 0.06;
        for (size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], expected[i], bound);
        if (held) {
          EXPECT_EQ(kept.to_vector<double>(), (x.detach() * 2.0).to_vector<double>());
        }
      }
    }
  }
}

TEST(Convolution, OfAnEmptyBatchHasZeroGradients) {
  const Tensor x = Tensor::variable(Array::zeros({0, 3, 5, 5}, DType::f32));
  const Tensor w = Tensor::variable(Array::full({4, 3, 3, 3}, 1, DType::f32));
  const Tensor bias = Tensor::variable(Array::zeros({4}, DType::f32));
  const Tensor y = conv2d(x, w, bias);
  EXPECT_EQ(y.shape(), (Shape{0, 4, 3, 3}));
  y.backward(Tensor(Array::zeros(y.shape(), DType::f32)));
  EXPECT_EQ(w.grad().to_vector<double>(), std::vector<double>(108, 0));
  EXPECT_EQ(bias.grad().to_vector<double>(), std::vector<double>(4, 0));
  EXPECT_EQ(x.grad().shape(), x.shape());
}

TEST(Convolution, ErrorsNameTheOpAndWhatWasExpected) {
  const Tensor x = random_tensor({1, 4, 5, 5}, 1), w = random_tensor({6, 4, 3, 3}, 2);
  const auto expect = [](const std::string& part, const auto& f) {
    EXPECT_NE(error_of(f).find(part), std::string::npos) << error_of(f) << " lacks " << part;
  };
  expect("conv2d: an empty tensor", [&] { conv2d({}, w); });
  expect("conv2d: an empty tensor", [&] { conv2d(x, {}); });
  expect("conv1d: input of shape [1, 4, 5, 5]", [&] { conv1d(x, w); });
  expect("expected [batch, channels] and 2", [&] { conv2d(random_tensor({5, 5}, 1), w); });
  expect("in 1 groups", [&] { conv2d(random_tensor({1, 3, 5, 5}, 1), w); });
  expect("out divisible by groups", [&] {
    conv2d(random_tensor({1, 16, 5, 5}, 1), w, {}, {.groups = 4});
  });
  expect("groups", [&] { conv2d(x, w, {}, {.groups = 0}); });
  expect("dtypes f64 and f32", [&] { conv2d(x, w.to(DType::f32)); });
  expect("dtype i64", [&] { conv2d(x.to(DType::i64), w.to(DType::i64)); });
  expect("bias of shape [5]", [&] { conv2d(x, w, random_tensor({5}, 3)); });
  expect("stride 0", [&] { conv2d(x, w, {}, {.stride = {0}}); });
  expect("padding -1", [&] { conv2d(x, w, {}, {.padding = {-1}}); });
  expect("stride has 3 entries", [&] { conv2d(x, w, {}, {.stride = {1, 1, 1}}); });
  expect("expected none larger", [&] { conv2d(x, w, {}, {.dilation = {3}}); });
  expect("padding same", [&] { conv2d(x, w, {}, {.stride = {2}, .same = true}); });
  expect("output_padding 2", [&] {
    conv_transpose2d(random_tensor({1, 6, 5, 5}, 1), w, {}, {.stride = {2}, .output_padding = {2}});
  });
  expect("becomes -1", [&] {
    conv_transpose2d(random_tensor({1, 6, 1, 1}, 1), w, {}, {.padding = {2}});
  });
  expect("rank 3 to 5", [&] { channels_last(random_tensor({2, 2}, 1)); });
}

}  // namespace
}  // namespace lockstep::testing
