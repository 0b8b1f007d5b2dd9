#include "lockstep/autograd/ops/pooling.h"

#include <limits>

#include "support/gradient_check.h"

namespace lockstep::testing {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

Tensor tensor(const std::vector<double>& values, Shape shape) {
  return Tensor(Array::from(values, shape));
}

Tensor counting(Shape shape) {
  std::vector<double> values(static_cast<size_t>(shape.elements()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i);
  return tensor(values, shape);
}

void expect_values(const Tensor& y, const std::vector<double>& expected) {
  const auto values = y.to_vector<double>();
  ASSERT_EQ(values.size(), expected.size());
  for (size_t i = 0; i < values.size(); ++i) EXPECT_DOUBLE_EQ(values[i], expected[i]) << i;
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

TEST(MaxPool, TakesTheLargestNanAboveAllAndNeverPadding) {
  const Tensor x = tensor({-5, -3, kNan, 2,  //
                           -4, -9, 7, 2,     //
                           -kInfinity, -kInfinity, 1, 1},
                          {1, 1, 3, 4});
  const auto pooled = [&](const PoolOptions& options) {
    return max_pool2d(x, options).to_vector<double>();
  };
  const auto padded = pooled({.kernel_size = {2}, .padding = {1}});
  const std::vector<double> expected{-5, kNan, 2, -4, 7, 2};
  ASSERT_EQ(padded.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_TRUE(padded[i] == expected[i] || (std::isnan(padded[i]) && std::isnan(expected[i])))
        << i;
  }
  EXPECT_EQ(pooled({.kernel_size = {1, 2}, .stride = {2, 2}, .ceil_mode = true})[2], -kInfinity);
  EXPECT_EQ(pooled({.kernel_size = {2, 2}, .stride = {1}, .dilation = {2, 3}}),
            (std::vector<double>{2}));
}

// Between the places that a dilated window sees there is nothing but padding.
TEST(MaxPool, AWindowThatSeesNothingHasNoGradient) {
  const Tensor x = Tensor::variable(Array::from({3.0, 1.0, 2.0}, {1, 1, 3}));
  const Tensor y =
      max_pool1d(x, {.kernel_size = {2}, .stride = {1}, .padding = {2}, .dilation = {4}});
  expect_values(y, {2, -kInfinity, 3});
  const Tensor dy = tensor({1, 10, 100}, {1, 1, 3});
  for (bool create_graph : {false, true}) {
    const GradOptions options{.create_graph = create_graph, .retain_graph = true};
    expect_values(grad({y}, {x}, {dy}, options)[0], {100, 0, 1});
  }
}

TEST(MaxPool, GradientGoesToTheFirstOfEqualOnes) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    const Tensor x = Tensor::variable(tensor({3, 1, 3, 3,  //
                                              0, 3, 3, 3},
                                             {1, 1, 2, 4})
                                          .to(dtype)
                                          .value());
    const Tensor y = max_pool2d(x, {.kernel_size = {2}, .stride = {1}});
    y.backward(tensor({1, 2, 4}, {1, 1, 1, 3}).to(dtype));
    EXPECT_EQ(x.grad().to_vector<double>(), (std::vector<double>{1, 0, 6, 0, 0, 0, 0, 0}));
  }
  const Tensor nans = Tensor::variable(tensor({1, kNan, kNan}, {1, 1, 3}).value());
  const Tensor y = max_pool1d(nans, {.kernel_size = {3}});
  EXPECT_TRUE(std::isnan(y.item()));
  y.backward(tensor({1}, {1, 1, 1}));
  EXPECT_EQ(nans.grad().to_vector<double>(), (std::vector<double>{0, 1, 0}));
}

// Every layout gives the same values and places, whatever the number of threads.
TEST(MaxPool, IsTheSameInEveryLayout) {
  const Array x = random_array({1, 300, 5, 600}, 3);
  const PoolOptions options{
      .kernel_size = {3, 2}, .stride = {2}, .padding = {1}, .dilation = {1, 2}, .ceil_mode = true};
  std::vector<std::vector<double>> results;
  const int before = context().threads;
  for (int threads : {1, 4}) {
    context().threads = threads;
    for (bool last : {false, true}) {
      const Tensor leaf = Tensor::variable(last ? channels_last(Tensor(x)).value() : x);
      const Tensor y = max_pool2d(leaf, options);
      y.backward(Tensor(random_array(y.shape(), 5)));
      results.push_back(y.to_vector<double>());
      results.push_back(leaf.grad().to_vector<double>());
    }
  }
  context().threads = before;
  for (size_t i = 2; i < results.size(); ++i) EXPECT_EQ(results[i], results[i % 2]);
}

TEST(AvgPool, CountsWhatItIsToldToCount) {
  const Tensor x = counting({1, 1, 3, 3});
  AvgPoolOptions options{.kernel_size = {2}, .padding = {1}};
  expect_values(avg_pool2d(x, options), {0, 0.75, 2.25, 6});
  options.count_include_pad = false;
  expect_values(avg_pool2d(x, options), {0, 1.5, 4.5, 6});
  options.divisor_override = 10;
  expect_values(avg_pool2d(x, options), {0, 0.3, 0.9, 2.4});
  // What hangs over the padded end is never counted; a window that begins there does not exist.
  expect_values(avg_pool1d(counting({1, 1, 5}), {.kernel_size = {2}, .ceil_mode = true}),
                {0.5, 2.5, 4});
  expect_values(avg_pool1d(counting({1, 1, 4}),
                           {.kernel_size = {3}, .stride = {3}, .padding = {1}, .ceil_mode = true}),
                {1.0 / 3, (2.0 + 3) / 3});
}

TEST(AdaptiveAvgPool, AveragesUnequalRuns) {
  expect_values(adaptive_avg_pool1d(counting({1, 1, 5}), 3), {0.5, 2, 3.5});
  expect_values(adaptive_avg_pool2d(counting({1, 1, 2, 3}), {3, 1}), {1, 2.5, 4});
  EXPECT_EQ(adaptive_avg_pool2d(counting({2, 4, 6}), {-1, 2}).shape(), (Shape{2, 4, 2}));
  // Rounded once, though it is made of two steps.
  const Tensor x = Tensor(random_array({1, 1, 7, 7}, 1)).to(DType::bf16);
  const double exact = mean(x.to(DType::f64)).item();
  EXPECT_NEAR(adaptive_avg_pool2d(x, {1}).item(), exact, std::abs(exact) * 0x1p-8);
}

TEST(Interpolate, ImagesDoNotAskTheScaleWhereTheSizeStaysOrDoubles) {
  const Tensor x(Array::from<double>({1, 2}, {1, 1, 1, 2}));
  using V = std::vector<double>;
  const auto by = [&](double scale, InterpolateMode mode) {
    return interpolate(x, {.scale_factor = {1, scale}, .mode = mode}).to_vector<double>();
  };
  EXPECT_EQ(by(1.3, InterpolateMode::nearest), (V{1, 2}));
  EXPECT_EQ(by(2.4, InterpolateMode::nearest), (V{1, 1, 2, 2}));
  EXPECT_EQ(by(1.3, InterpolateMode::bilinear), (V{1, 2}));
  const Tensor line(Array::from<double>({1, 2}, {1, 1, 2}));
  EXPECT_EQ(interpolate(line, {.scale_factor = {1.3}}).to_vector<double>(), (V{1, 1}));
}

TEST(Interpolate, FindsItsPlaces) {
  const auto stretched = [](const std::vector<double>& values, Shape shape,
                            const InterpolateOptions& options) {
    return interpolate(tensor(values, shape), options).to_vector<double>();
  };
  using V = std::vector<double>;
  EXPECT_EQ(stretched({1, 2, 3}, {1, 1, 3}, {.size = {5}}), (V{1, 1, 2, 2, 3}));
  EXPECT_EQ(stretched({1, 2, 3, 4}, {1, 1, 4}, {.scale_factor = {0.6}}), (V{1, 2}));
  EXPECT_EQ(stretched({1, 2, 3, 4}, {1, 1, 2, 2}, {.scale_factor = {1, 2}}),
            (V{1, 1, 2, 2, 3, 3, 4, 4}));
  const auto linear = [&](const V& values, InterpolateOptions options) {
    options.mode = InterpolateMode::bilinear;
    return stretched(values, {1, 1, 1, static_cast<int64_t>(values.size())}, options);
  };
  EXPECT_EQ(linear({0, 4}, {.size = {1, 4}}), (V{0, 1, 3, 4}));
  EXPECT_EQ(linear({0, 6}, {.size = {1, 4}, .align_corners = true}), (V{0, 2, 4, 6}));
  EXPECT_EQ(linear({0, 1, 2, 3, 4}, {.scale_factor = {1, 0.5}}), (V{0.5, 2.5}));
}

TEST(Unfold, ListsThePatches) {
  const Tensor x = counting({1, 2, 3, 3});
  const Tensor y = unfold(x, {.kernel_size = {2}});
  EXPECT_EQ(y.shape(), (Shape{1, 8, 4}));
  const auto values = y.to_vector<double>();
  EXPECT_EQ(std::vector<double>(values.begin(), values.begin() + 8),
            (std::vector<double>{0, 1, 3, 4, 1, 2, 4, 5}));
  const Tensor padded =
      unfold(counting({1, 2, 2}), {.kernel_size = {2}, .stride = {2}, .padding = {1}});
  EXPECT_EQ(padded.to_vector<double>(),
            (std::vector<double>{0, 0, 0, 3, 0, 0, 2, 0, 0, 1, 0, 0, 0, 0, 0, 0}));
}

TEST(Pooling, GradientsOfEveryOrder) {
  const std::vector<std::pair<const char*, Function>> functions{
      {"max_pool2d",
       [](const auto& in) {
         return square(max_pool2d(in[0], {.kernel_size = {3, 2}, .stride = {2}, .padding = {1}}));
       }},
      {"max_pool1d",
       [](const auto& in) {
         return square(max_pool1d(reshape(in[0], {2, 2, 20}), {.kernel_size = {3}}));
       }},
      {"avg_pool2d",
       [](const auto& in) {
         return square(avg_pool2d(in[0], {.kernel_size = {3, 2},
                                          .stride = {2},
                                          .padding = {1},
                                          .ceil_mode = true,
                                          .count_include_pad = false}));
       }},
      {"adaptive_avg_pool2d",
       [](const auto& in) {
         return square(adaptive_avg_pool2d(in[0], {3, 2}));
       }},
      {"nearest",
       [](const auto& in) {
         return square(interpolate(in[0], {.size = {7, 3}}));
       }},
      {"bilinear",
       [](const auto& in) {
         return square(
             interpolate(in[0], {.scale_factor = {1.7}, .mode = InterpolateMode::bilinear}));
       }},
      {"unfold",
       [](const auto& in) {
         return square(unfold(in[0], {.kernel_size = {2, 3}, .padding = {1}, .dilation = {2, 1}}));
       }},
  };
  for (const auto& [name, f] : functions) {
    SCOPED_TRACE(name);
    const std::vector<Array> inputs{random_array({2, 2, 4, 5}, 11)};
    expect_gradients(f, inputs);
    expect_second_gradients(f, inputs);
    expect_recorded_equals_fused(f, inputs);
  }
}

TEST(Pooling, OfAnEmptyBatchIsEmpty) {
  const Tensor x = Tensor::variable(Array::zeros({0, 3, 4, 4}, DType::f32));
  for (const Tensor& y : {max_pool2d(x, {.kernel_size = {2}}), avg_pool2d(x, {.kernel_size = {2}}),
                          adaptive_avg_pool2d(x, {2}), interpolate(x, {.size = {2}})}) {
    EXPECT_EQ(y.shape(), (Shape{0, 3, 2, 2}));
    EXPECT_EQ(grad({&y, 1}, {&x, 1}, {&y, 1})[0].shape(), x.shape());
  }
}

TEST(Pooling, ErrorsNameTheOpAndWhatWasExpected) {
  const Tensor x = counting({1, 2, 4, 4});
  const auto expect = [](const std::string& part, const auto& f) {
    EXPECT_NE(error_of(f).find(part), std::string::npos) << error_of(f) << " lacks " << part;
  };
  expect("max_pool2d: an empty tensor", [] { max_pool2d({}, {.kernel_size = {2}}); });
  expect("no kernel_size", [&] { max_pool2d(x, {}); });
  expect("kernel 0", [&] { max_pool2d(x, {.kernel_size = {0}}); });
  expect("at most half", [&] { avg_pool2d(x, {.kernel_size = {2}, .padding = {2}}); });
  expect("expected none larger", [&] { max_pool2d(x, {.kernel_size = {5}}); });
  expect("max_pool1d: input of shape", [&] { max_pool1d(x, {.kernel_size = {2}}); });
  expect("dtype i64", [&] { max_pool2d(x.to(DType::i64), {.kernel_size = {2}}); });
  expect("spatial dimensions above 0", [] { adaptive_avg_pool2d(counting({1, 2, 0, 4}), {1}); });
  expect("divisor_override 0", [&] { avg_pool2d(x, {.kernel_size = {2}, .divisor_override = 0}); });
  expect("adaptive_avg_pool2d: 0 elements", [&] { adaptive_avg_pool2d(x, {0}); });
  expect("expected 1 to", [&] { adaptive_avg_pool2d(x, {int64_t{1} << 40}); });
  expect("expected one of them", [&] { interpolate(x, {.size = {2}, .scale_factor = {2}}); });
  expect("expected one of them", [&] { interpolate(x, {}); });
  expect("scale_factor", [&] { interpolate(x, {.scale_factor = {kNan}}); });
  expect("align_corners with nearest",
         [&] { interpolate(x, {.size = {2}, .align_corners = true}); });
  expect("interpolate: input of shape [4]", [] { interpolate(counting({4}), {.size = {2}}); });
  expect("unfold: no kernel_size", [&] { unfold(x, {}); });
}

}  // namespace
}  // namespace lockstep::testing
