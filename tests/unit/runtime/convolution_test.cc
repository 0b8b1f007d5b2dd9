#include <functional>

#include "support/convolution_case.h"
#include "support/window_reference.h"
#include "unit/runtime/kernel_testing.h"

namespace lockstep::testing {
namespace {

using test::make_case;
using Case = test::ConvolutionCase;

std::vector<Case> cases() {
  return {
      make_case("plain", {2, 3, 6, 5}, {4, 3, 3, 2}, {}),
      make_case("padded", {3, 16, 7, 7}, {32, 16, 3, 3}, {.padding = {1, 1}}),
      make_case("strided", {2, 16, 9, 8}, {16, 16, 3, 3}, {.stride = {2, 3}, .padding = {1, 0}}),
      make_case("dilated", {2, 5, 9, 9}, {7, 5, 3, 2}, {.padding = {2, 1}, .dilation = {2, 3}}),
      make_case("grouped", {2, 8, 5, 6}, {12, 4, 3, 3}, {.padding = {1, 1}, .groups = 2}),
      make_case("depthwise", {2, 16, 6, 6}, {16, 1, 3, 3}, {.padding = {1, 1}, .groups = 16}),
      make_case("1x1", {3, 32, 5, 5}, {16, 32, 1, 1}, {}),
      make_case("one pixel", {3, 8, 1, 1}, {16, 8, 1, 1}, {}),
      make_case("1x1 strided", {2, 16, 7, 6}, {32, 16, 1, 1}, {.stride = {2, 2}}),
      make_case("more behind", {2, 4, 5, 5}, {6, 4, 2, 4}, {.padding = {0, 1}}, {1, 2}),
      make_case("short of the end", {2, 4, 9, 9}, {4, 4, 2, 2}, {.stride = {1, 1}}, {-3, -2}),
      make_case("one", {1, 1, 1, 1}, {1, 1, 1, 1}, {}),
      make_case("line", {2, 6, 17}, {8, 6, 5}, {.stride = {2}, .padding = {2}}),
      make_case("volume", {2, 4, 5, 6, 4}, {6, 2, 3, 2, 3},
                {.stride = {2, 1, 1}, .padding = {1, 0, 1}, .groups = 2}),
      make_case("all padding", {1, 2, 1, 1}, {2, 2, 1, 1}, {.padding = {2, 2}}),
  };
}

// Several parts for the threads: bands of rows, runs of images, slices of channels.
std::vector<Case> large_cases() {
  return {
      make_case("bands", {1, 64, 40, 30}, {32, 64, 3, 3}, {.padding = {1, 1}}),
      make_case("strided bands", {1, 64, 60, 40}, {64, 64, 3, 3},
                {.stride = {3, 2}, .padding = {1, 1}}),
      make_case("dilated bands", {2, 32, 50, 40}, {64, 32, 3, 3},
                {.padding = {3, 3}, .dilation = {3, 3}}),
      make_case("1x1 bands", {1, 256, 40, 40}, {256, 256, 1, 1}, {.stride = {2, 2}}),
      make_case("images", {19, 48, 12, 12}, {64, 48, 3, 3}, {.padding = {1, 1}}),
      make_case("slices", {5, 128, 7, 7}, {200, 128, 3, 3}, {.padding = {1, 1}}),
      make_case("groups", {3, 128, 14, 14}, {128, 32, 3, 3}, {.padding = {1, 1}, .groups = 4}),
      make_case("pixels", {11, 48, 24, 25}, {200, 48, 1, 1}, {}),
      make_case("deep bands", {1, 32, 12, 14, 10}, {32, 32, 3, 3, 3}, {.padding = {1, 1, 1}}),
  };
}

enum class Memory { contiguous, channels_last, odd };

Array image(const Shape& shape, DType dtype, Memory memory, unsigned seed) {
  if (memory == Memory::contiguous) return random(shape, dtype, Layout::contiguous, -1, 1, seed);
  if (memory == Memory::odd) return random(shape, dtype, Layout::sliced, -1, 1, seed);
  Shape inside{shape[0]};
  std::vector<int> back{0, shape.rank() - 1};
  for (int i = 2; i < shape.rank(); ++i) {
    inside.append(shape[i]);
    back.push_back(i - 1);
  }
  inside.append(shape[1]);
  return random(inside, dtype, Layout::contiguous, -1, 1, seed).permute(back);
}

// Values of each dtype's size; the result of a convolution adds up `terms` products below 1.
double bound(DType dtype, int64_t terms) {
  const double unit = dtype == DType::f64 ? 0x1p-52 : 0x1p-22;
  const double rounding = dtype == DType::bf16 ? 0x1p-8 : dtype == DType::f16 ? 0x1p-10 : unit;
  return static_cast<double>(terms) * unit + rounding * std::sqrt(static_cast<double>(terms)) * 4;
}

void expect_convolutions(Kernels& kernels, const Case& c, DType dtype, Memory memory,
                         const std::string& what) {
  const Array x = image(c.x, dtype, memory, 1), w = image(c.w, dtype, memory, 2);
  const Array dy = image(c.y, dtype, memory, 3), y = image(c.y, dtype, memory, 4);
  const Array dx = image(c.x, dtype, memory, 5), dw = image(c.w, dtype, memory, 6);
  const auto dx_before = doubles(dx), dw_before = doubles(dw);
  kernels.convolution(x.view(), w.view(), c.options, y.view());
  kernels.convolution_input_gradient(dy.view(), w.view(), c.options, dx.view(), 0);
  const WindowReference reference(c.x, c.w, c.y, c.options);
  const int64_t spatial = c.y.elements() / c.y[1];
  expect_near(doubles(y), reference.convolution(doubles(x), doubles(w)), 0,
              bound(dtype, c.w.elements() / c.w[0]), what + ": y");
  const auto gradient = reference.input_gradient(doubles(dy), doubles(w));
  const double dx_bound = bound(dtype, c.w.elements() / c.w[1]);
  expect_near(doubles(dx), gradient, 0, dx_bound, what + ": dx");
  for (const double beta : {1.0, 0.5}) {
    set(dx, dx_before);
    kernels.convolution_input_gradient(dy.view(), w.view(), c.options, dx.view(), beta);
    auto added = gradient;
    for (size_t i = 0; i < added.size(); ++i) added[i] += beta * dx_before[i];
    expect_near(doubles(dx), added, 0, dx_bound, what + ": dx added");
  }
  auto sums = reference.weight_gradient(doubles(dy), doubles(x));
  kernels.convolution_weight_gradient(dy.view(), x.view(), c.options, dw.view(), 0);
  expect_near(doubles(dw), sums, 0, bound(dtype, spatial), what + ": dw");
  set(dw, dw_before);
  kernels.convolution_weight_gradient(dy.view(), x.view(), c.options, dw.view(), 1);
  for (size_t i = 0; i < sums.size(); ++i) sums[i] += dw_before[i];
  expect_near(doubles(dw), sums, 0, bound(dtype, spatial), what + ": dw added");
}

TEST(Convolution, EqualsTheSumsInDouble) {
  Kernels& kernels = backend_of({}).kernels();
  for (const Case& c : cases()) {
    for (DType dtype : kFloats) {
      for (Memory memory : {Memory::contiguous, Memory::channels_last, Memory::odd}) {
        expect_convolutions(kernels, c, dtype, memory,
                            std::string(c.name) + " " + std::string(name_of(dtype)) + " memory " +
                                std::to_string(static_cast<int>(memory)));
      }
    }
  }
}

TEST(Convolution, EqualsTheSumsInDoubleAtEveryLevel) {
  for (LevelKernels& level : all_levels()) {
    expect_convolutions(level.kernels, cases()[3], DType::f64, Memory::contiguous, level.name);
    expect_convolutions(level.kernels, cases()[1], DType::f32, Memory::channels_last, level.name);
  }
}

std::vector<double> all_results(const Case& c, DType dtype, Memory memory) {
  Kernels& kernels = backend_of({}).kernels();
  const Array x = image(c.x, dtype, memory, 1), w = image(c.w, dtype, Memory::contiguous, 2);
  const Array dy = image(c.y, dtype, memory, 3), y = image(c.y, dtype, memory, 4);
  const Array dx = image(c.x, dtype, memory, 5), dw = image(c.w, dtype, Memory::contiguous, 6);
  kernels.convolution(x.view(), w.view(), c.options, y.view());
  kernels.convolution_input_gradient(dy.view(), w.view(), c.options, dx.view(), 0);
  kernels.convolution_weight_gradient(dy.view(), x.view(), c.options, dw.view(), 0);
  std::vector<double> all = doubles(y);
  for (const Array& more : {dx, dw}) {
    const auto values = doubles(more);
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

TEST(Convolution, LargeOnesAreTheSameInPartsAndForAnyNumberOfThreads) {
  for (const Case& c : large_cases()) {
    expect_convolutions(backend_of({}).kernels(), c, DType::f32, Memory::channels_last, c.name);
    for (DType dtype : {DType::f32, DType::f64}) {
      for (Memory memory : {Memory::contiguous, Memory::channels_last}) {
        std::vector<double> one, five;
        {
          const Threads threads(1);
          one = all_results(c, dtype, memory);
        }
        {
          const Threads threads(5);
          five = all_results(c, dtype, memory);
        }
        EXPECT_TRUE(one == five) << c.name << " " << name_of(dtype);
      }
    }
  }
}

TEST(Convolution, TakesWindowsThatOverlapThemselves) {
  const Case c = make_case("", {3, 16, 6, 6}, {16, 16, 3, 3}, {.padding = {1, 1}});
  Kernels& kernels = backend_of({}).kernels();
  const WindowReference reference(c.x, c.w, c.y, c.options);
  for (DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    const Array x = random({16, 6, 6}, dtype, Layout::contiguous, -1, 1, 1).expand(c.x);
    const Array w = random(c.w, dtype, Layout::contiguous, -1, 1, 2);
    const Array dy = random({1, 1, 1, 1}, dtype, Layout::contiguous, -1, 1, 3).expand(c.y);
    const Array y = Array::empty(c.y, dtype), dw = Array::empty(c.w, dtype);
    kernels.convolution(x.view(), w.view(), c.options, y.view());
    kernels.convolution_weight_gradient(dy.view(), x.view(), c.options, dw.view(), 0);
    expect_near(doubles(y), reference.convolution(doubles(x), doubles(w)), 0, bound(dtype, 144),
                "y");
    expect_near(doubles(dw), reference.weight_gradient(doubles(dy), doubles(x)), 0,
                bound(dtype, 108), "dw");
  }
}

TEST(Convolution, OfNothingIsZero) {
  Kernels& kernels = backend_of({}).kernels();
  const WindowOptions options{.spatial = 2, .kernel = {3, 3}, .padding = {1, 1}};
  const Array no_images = Array::empty({0, 2, 4, 4}, DType::f32);
  const Array dw = Array::full({5, 2, 3, 3}, 7, DType::f32);
  const Array no_dy = Array::empty({0, 5, 4, 4}, DType::f32);
  kernels.convolution_weight_gradient(no_dy.view(), no_images.view(), options, dw.view(), 2);
  EXPECT_EQ(doubles(dw), std::vector<double>(90, 14));
  kernels.convolution_weight_gradient(no_dy.view(), no_images.view(), options, dw.view(), 0);
  EXPECT_EQ(doubles(dw), std::vector<double>(90, 0));
  const Array y = Array::full({1, 5, 4, 4}, 7, DType::f32);
  kernels.convolution(Array::empty({1, 0, 4, 4}, DType::f32).view(),
                      Array::empty({5, 0, 3, 3}, DType::f32).view(), options, y.view());
  EXPECT_EQ(doubles(y), std::vector<double>(80, 0));
}

}  // namespace
}  // namespace lockstep::testing
