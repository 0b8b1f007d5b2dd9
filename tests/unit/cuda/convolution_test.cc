#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "lockstep/autograd/ops.h"
#include "support/convolution_case.h"
#include "support/device_check.h"

namespace lockstep {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

using test::make_case;
using Case = test::ConvolutionCase;

std::vector<Case> cases() {
  return {
      make_case("one", {1, 1, 1, 1}, {1, 1, 1, 1}, {}),
      make_case("plain", {2, 3, 6, 5}, {4, 3, 3, 2}, {}),
      make_case("padded", {3, 16, 7, 7}, {32, 16, 3, 3}, {.padding = {1, 1}}),
      make_case("strided", {2, 16, 9, 8}, {16, 16, 3, 3}, {.stride = {2, 3}, .padding = {1, 0}}),
      make_case("dilated", {2, 5, 9, 9}, {7, 5, 3, 2}, {.padding = {2, 1}, .dilation = {2, 3}}),
      make_case("grouped", {2, 12, 5, 6}, {9, 4, 3, 3}, {.padding = {1, 1}, .groups = 3}),
      make_case("depthwise", {2, 7, 6, 6}, {14, 1, 3, 3}, {.padding = {1, 1}, .groups = 7}),
      make_case("1x1", {3, 32, 5, 5}, {16, 32, 1, 1}, {}),
      make_case("1x1 strided", {2, 16, 7, 6}, {32, 16, 1, 1}, {.stride = {2, 2}}),
      make_case("more behind", {2, 4, 5, 5}, {6, 4, 2, 4}, {.padding = {0, 1}}, {1, 2}),
      make_case("short of the end", {2, 4, 9, 9}, {4, 4, 2, 2}, {}, {-3, -2}),
      make_case("line", {2, 6, 17}, {8, 6, 5}, {.stride = {2}, .padding = {2}}),
      make_case("volume", {2, 4, 5, 6, 4}, {6, 2, 3, 2, 3},
                {.stride = {2, 1, 1}, .padding = {1, 0, 1}, .groups = 2}),
      make_case("all padding", {1, 2, 1, 1}, {2, 2, 1, 1}, {.padding = {2, 2}}),
      make_case("several tiles", {2, 70, 12, 11}, {66, 70, 3, 3}, {.padding = {1, 1}}),
      make_case("several parts", {5, 3, 40, 30}, {8, 3, 3, 3}, {.padding = {1, 1}}),
  };
}

enum class Memory { contiguous, channels_last, odd };

Array image(const Shape& shape, DType dtype, Memory memory, uint64_t seed) {
  if (memory == Memory::contiguous) return test::values(shape, dtype, -1, 1, seed);
  if (memory == Memory::odd) {
    Shape wide = shape;
    wide[wide.rank() - 1] += 3;
    return test::values(wide, dtype, -1, 1, seed)
        .narrow(wide.rank() - 1, 1, shape[shape.rank() - 1]);
  }
  Shape inside{shape[0]};
  std::vector<int> back{0, shape.rank() - 1};
  for (int i = 2; i < shape.rank(); ++i) {
    inside.append(shape[i]);
    back.push_back(i - 1);
  }
  inside.append(shape[1]);
  return test::values(inside, dtype, -1, 1, seed).permute(back);
}

// A result's memory, all NaN.
Array unset(const Shape& shape, DType dtype, Memory memory) {
  const Array result = image(shape, dtype, memory, 9);
  test::host_kernels().fill(result.view(), kNan);
  return result;
}

// The error of sums of so many products, whose order and form are a library's choice, and of
// rounding to the dtype. cuDNN's f32 weight gradients were off by 4e-5 where 264 products are
// summed.
double bound_of(DType dtype, int64_t products) {
  const double steps = 16 + 4 * static_cast<double>(products);
  if (dtype == DType::f64) return 0x1p-52 * steps;
  const double f32 = 0x1p-23 * steps;
  return dtype == DType::f32 ? f32 : f32 + test::tolerance(dtype, 4);
}

void check_forward(const Case& c, DType dtype, Memory memory) {
  const Array x = image(c.x, dtype, memory, 1), w = test::values(c.w, dtype, -1, 1, 2);
  const Array y = unset(c.y, dtype, memory), device_y = test::on_device(y);
  const Array device_x = test::on_device(x), device_w = test::on_device(w);
  test::host_kernels().convolution(x.view(), w.view(), c.options, y.view());
  test::device_kernels().convolution(device_x.view(), device_w.view(), c.options, device_y.view());
  test::expect_near(device_y, y, bound_of(dtype, w.elements() / c.w[0]));
}

void check_input_gradient(const Case& c, DType dtype, Memory memory, double beta) {
  const Array dy = image(c.y, dtype, memory, 1), w = test::values(c.w, dtype, -1, 1, 2);
  const Array dx = beta == 0 ? unset(c.x, dtype, memory) : image(c.x, dtype, memory, 3);
  const Array device_dx = test::on_device(dx);
  const Array device_dy = test::on_device(dy), device_w = test::on_device(w);
  test::host_kernels().convolution_input_gradient(dy.view(), w.view(), c.options, dx.view(), beta);
  test::device_kernels().convolution_input_gradient(device_dy.view(), device_w.view(), c.options,
                                                    device_dx.view(), beta);
  test::expect_near(device_dx, dx, bound_of(dtype, w.elements() / c.w[1]));
}

void check_weight_gradient(const Case& c, DType dtype, Memory memory, double beta) {
  const Array dy = image(c.y, dtype, memory, 1), x = image(c.x, dtype, memory, 2);
  const Array dw = beta == 0 ? unset(c.w, dtype, memory) : image(c.w, dtype, memory, 3);
  const Array device_dw = test::on_device(dw), device_dy = test::on_device(dy),
              device_x = test::on_device(x);
  test::host_kernels().convolution_weight_gradient(dy.view(), x.view(), c.options, dw.view(), beta);
  test::device_kernels().convolution_weight_gradient(device_dy.view(), device_x.view(), c.options,
                                                     device_dw.view(), beta);
  const int64_t products = dy.elements() / c.y[1];
  test::expect_near(device_dw, dw, bound_of(dtype, products));
}

class CudaConvolution : public ::testing::TestWithParam<DType> {
 protected:
  template <class Check>
  void for_all(const Check& check) {
    for (const Case& c : cases()) {
      for (const Memory memory : {Memory::contiguous, Memory::channels_last, Memory::odd}) {
        SCOPED_TRACE(std::string(c.name) + ", memory " + std::to_string(static_cast<int>(memory)));
        check(c, GetParam(), memory);
      }
    }
  }
};

TEST_P(CudaConvolution, Forward) { for_all(check_forward); }

TEST_P(CudaConvolution, InputGradient) {
  for_all(
      [](const Case& c, DType dtype, Memory memory) { check_input_gradient(c, dtype, memory, 0); });
}

TEST_P(CudaConvolution, InputGradientIsAddedToWhatWasThere) {
  for_all([](const Case& c, DType dtype, Memory memory) {
    check_input_gradient(c, dtype, memory, memory == Memory::odd ? 0.5 : 1);
  });
}

TEST_P(CudaConvolution, WeightGradient) {
  for_all([](const Case& c, DType dtype, Memory memory) {
    check_weight_gradient(c, dtype, memory, 0);
  });
}

TEST_P(CudaConvolution, WeightGradientIsAddedToWhatWasThere) {
  for_all([](const Case& c, DType dtype, Memory memory) {
    check_weight_gradient(c, dtype, memory, memory == Memory::odd ? 0.5 : 1);
  });
}

INSTANTIATE_TEST_SUITE_P(Dtypes, CudaConvolution,
                         ::testing::Values(DType::f64, DType::f32, DType::bf16, DType::f16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

TEST(CudaConvolution, Empty) {
  Case c = make_case("no images", {0, 3, 5, 5}, {4, 3, 3, 3}, {});
  for (const double beta : {0.0, 1.0}) {
    check_weight_gradient(c, DType::f32, Memory::contiguous, beta);
    check_input_gradient(c, DType::f32, Memory::contiguous, beta);
  }
  check_forward(c, DType::f32, Memory::contiguous);
  c = make_case("no channels", {2, 0, 5, 5}, {4, 0, 3, 3}, {});
  check_forward(c, DType::f32, Memory::contiguous);
  c = make_case("no outputs", {2, 4, 5, 5}, {0, 4, 1, 1}, {});
  for (const double beta : {0.0, 1.0}) {
    check_input_gradient(c, DType::f32, Memory::contiguous, beta);
  }
}

// Both gradients of an image that two convolutions read, the second added to the first.
TEST(CudaConvolution, GradientsOfAnImageUsedTwice) {
  const Case one = make_case("1x1", {2, 16, 6, 5}, {8, 16, 1, 1}, {});
  const Case other = make_case("3x3", {2, 16, 6, 5}, {8, 16, 3, 3}, {.padding = {1, 1}});
  for (const auto& [older, newer] : {std::pair(one, other), std::pair(other, one)}) {
    const auto gradient = [&](DType dtype, Device where) {
      const auto given = [&](const Array& values) { return Tensor(test::moved(values, where)); };
      const Tensor x =
          Tensor::variable(given(image(one.x, dtype, Memory::channels_last, 1)).value());
      const Tensor middle = x * 1.0;
      std::vector<Tensor> outputs, seeds;
      for (const Case& c : {older, newer}) {
        const Tensor w = given(test::values(c.w, DType::bf16, -1, 1, 2)).to(dtype);
        outputs.push_back(conv2d(middle, w, {}, {.padding = {c.options.padding[0]}}));
        seeds.push_back(given(image(c.y, DType::bf16, Memory::channels_last, 3)).to(dtype));
      }
      backward(outputs, seeds);
      return x.grad().to_vector<double>();
    };
    const auto exact = gradient(DType::f64, {});
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
      const auto found = gradient(dtype, test::device());
      const double bound = bound_of(dtype, 80) * (dtype == DType::f64 ? 1 : 4);
      for (size_t i = 0; i < exact.size(); ++i) ASSERT_NEAR(found[i], exact[i], bound);
    }
  }
}

// Every run gives the same bits.
TEST(CudaConvolution, WeightGradientIsReproducible) {
  const Case c = make_case("parts", {5, 3, 40, 30}, {8, 3, 3, 3}, {.padding = {1, 1}});
  const Array dy = test::on_device(test::values(c.y, DType::f32, -1, 1, 1));
  const Array x = test::on_device(test::values(c.x, DType::f32, -1, 1, 2));
  std::vector<Array> results;
  for (int i = 0; i < 2; ++i) {
    results.push_back(test::on_device(unset(c.w, DType::f32, Memory::contiguous)));
    test::device_kernels().convolution_weight_gradient(dy.view(), x.view(), c.options,
                                                       results.back().view(), 0);
  }
  test::expect_near(results[0], test::on_host(results[1]), 0);
}

}  // namespace
}  // namespace lockstep
