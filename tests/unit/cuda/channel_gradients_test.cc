#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <string>

#include "channel_images.h"
#include "lockstep/autograd/ops.h"
#include "lockstep/nn/models/resnet.h"

// What batch normalization does to images, and its gradients.
namespace lockstep {
namespace {

using test::device_kernels;
using test::host_kernels;
using test::Image;
using test::image;
using test::kImages;
using test::on_device;
using test::statistics_of;

View view_or_none(const Array& x) { return x ? x.view() : View(); }
Array on_device_or_none(const Array& x) { return x ? on_device(x) : x; }

// Of the channels, in their dtype.
Array channels(const Shape& shape, DType dtype, uint64_t seed) {
  return test::values({shape[1]}, statistics_of(dtype), -1, 1, seed);
}

void check_affine(const Array& x, const Array& residual, bool relu, Image to) {
  const Array scale = channels(x.shape(), x.dtype(), 3), shift = channels(x.shape(), x.dtype(), 4);
  const Array y = image(Array::zeros(x.shape(), x.dtype()), to), on = on_device(y);
  const Array on_residual = on_device_or_none(residual);
  device_kernels().channel_affine(on_device(x).view(), on_device(scale).view(),
                                  on_device(shift).view(), view_or_none(on_residual), relu,
                                  on.view());
  host_kernels().channel_affine(x.view(), scale.view(), shift.view(), view_or_none(residual), relu,
                                y.view());
  test::expect_near(on, y, test::tolerance(x.dtype()));
}

TEST(CudaChannels, Affine) {
  test::for_all_images([](const Shape& shape, DType dtype, Image kind) {
    const Array x = image(test::values(shape, dtype, -1, 1), kind);
    const Array residual = image(test::values(shape, dtype, -1, 1, 2), kind);
    for (bool relu : {false, true}) {
      check_affine(x, {}, relu, kind);
      check_affine(x, residual, relu, kind);
    }
  });
}

TEST(CudaChannels, AffineOfDifferentLayouts) {
  for (Image from : kImages) {
    for (Image to : kImages) {
      const Array x = image(test::values({3, 16, 24}, DType::bf16, -1, 1), from);
      const Array residual = image(test::values({3, 16, 24}, DType::bf16, -1, 1, 2), to);
      check_affine(x, {}, false, to);
      check_affine(x, residual, true, to);
      check_affine(x, residual, true, from);
    }
  }
}

enum class GateBy { none, channel, output };
constexpr GateBy kGates[] = {GateBy::none, GateBy::channel, GateBy::output};

struct Gate {
  Array scale, shift, output;

  ChannelGate views() const {
    return {view_or_none(scale), view_or_none(shift), view_or_none(output)};
  }
};

// Gates of a gradient like `x`, on the host and on the device.
struct Gates {
  Gate host, on;

  Gates(const Array& x, GateBy by, Image kind) {
    if (by == GateBy::channel) {
      host.scale = channels(x.shape(), x.dtype(), 7);
      host.shift = channels(x.shape(), x.dtype(), 8);
    } else if (by == GateBy::output) {
      host.output = image(test::values(x.shape(), x.dtype(), -1, 1, 9), kind);
    }
    on = {on_device_or_none(host.scale), on_device_or_none(host.shift),
          on_device_or_none(host.output)};
  }
};

void check_gradient_sums(const Array& dy, const Array& x, const Gates& gates, bool kept,
                         Image kind) {
  const Shape& shape = x.shape();
  const DType of_channel = statistics_of(x.dtype());
  const Array mean = channels(shape, x.dtype(), 3);
  const Array sum = Array::zeros({shape[1]}, of_channel);
  const Array products = Array::zeros({shape[1]}, of_channel);
  const Array gated = kept ? image(Array::zeros(shape, dy.dtype()), kind) : Array();
  const Array on_sum = on_device(sum), on_products = on_device(products);
  const Array on_gated = on_device_or_none(gated);
  device_kernels().channel_gradient_sums(on_device(dy).view(), on_device(x).view(),
                                         on_device(mean).view(), gates.on.views(),
                                         view_or_none(on_gated), on_sum.view(), on_products.view());
  host_kernels().channel_gradient_sums(dy.view(), x.view(), mean.view(), gates.host.views(),
                                       view_or_none(gated), sum.view(), products.view());
  const double scale = static_cast<double>(shape[0] * shape[2]);
  test::expect_near(on_sum, sum, test::tolerance(of_channel), scale);
  test::expect_near(on_products, products, test::tolerance(of_channel), scale);
  if (kept) test::expect_same(on_gated, gated);
}

TEST(CudaChannels, GradientSums) {
  test::for_all_images([](const Shape& shape, DType dtype, Image kind) {
    const Array x = image(test::values(shape, dtype, -1, 1), kind);
    const Array dy = image(test::values(shape, dtype, -1, 1, 2), kind);
    for (GateBy by : kGates) {
      for (bool kept : {false, true}) check_gradient_sums(dy, x, Gates(x, by, kind), kept, kind);
    }
  });
}

// dy, x, the gate's output and what is kept in different layouts.
TEST(CudaChannels, GradientSumsOfDifferentLayouts) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    const Array dense = test::values({4, 16, 50}, dtype, -1, 1);
    const Array dy = test::values({4, 16, 50}, dtype, -1, 1, 2);
    for (Image of_x : kImages) {
      for (Image of_output : kImages) {
        const Array x = image(dense, of_x);
        for (GateBy by : kGates) check_gradient_sums(dy, x, Gates(x, by, of_output), true, of_x);
        check_gradient_sums(image(dy, of_x), x, Gates(x, GateBy::output, of_output), true, of_x);
        check_gradient_sums(image(dy, of_x), x, Gates(x, GateBy::output, of_x), true, of_output);
      }
    }
  }
}

void check_input_gradient(const Array& dy, const Array& x, GateBy by, bool sloped, Image to) {
  const Gates gates(x, by, to);
  const Array scale = channels(x.shape(), x.dtype(), 4);
  const Array slope = sloped ? channels(x.shape(), x.dtype(), 5) : Array();
  const Array shift = sloped ? channels(x.shape(), x.dtype(), 6) : Array();
  const Array dx = image(Array::zeros(x.shape(), x.dtype()), to), on = on_device(dx);
  const Array on_slope = on_device_or_none(slope), on_shift = on_device_or_none(shift);
  device_kernels().channel_input_gradient(
      on_device(dy).view(), on_device(x).view(), on_device(scale).view(), gates.on.views(),
      view_or_none(on_slope), view_or_none(on_shift), on.view());
  host_kernels().channel_input_gradient(dy.view(), x.view(), scale.view(), gates.host.views(),
                                        view_or_none(slope), view_or_none(shift), dx.view());
  test::expect_near(on, dx, test::tolerance(x.dtype()));
}

TEST(CudaChannels, InputGradient) {
  test::for_all_images([](const Shape& shape, DType dtype, Image kind) {
    const Array x = image(test::values(shape, dtype, -1, 1), kind);
    const Array dy = image(test::values(shape, dtype, -1, 1, 2), kind);
    for (GateBy by : {GateBy::none, GateBy::channel}) {
      for (bool sloped : {false, true}) check_input_gradient(dy, x, by, sloped, kind);
    }
  });
}

TEST(CudaChannels, InputGradientOfDifferentLayouts) {
  for (Image from : kImages) {
    for (Image to : kImages) {
      const Array x = image(test::values({3, 16, 24}, DType::bf16, -1, 1), from);
      const Array dy = image(test::values({3, 16, 24}, DType::bf16, -1, 1, 2), to);
      check_input_gradient(dy, x, GateBy::channel, true, to);
      check_input_gradient(dy, x, GateBy::channel, true, from);
    }
  }
}

// More places than one launch has threads: a thread goes on to places of other channels.
TEST(CudaChannels, ThreadsGoOnToOtherChannels) {
  for (Image kind : {Image::channels_first, Image::channels_last}) {
    const Array x = image(test::values({40, 24, 6144}, DType::bf16, -1, 1), kind);
    check_affine(x, x, true, kind);
    check_input_gradient(x, x, GateBy::channel, true, kind);
  }
}

TEST(CudaChannels, NaNPassesTheReluBothWays) {
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  std::vector<double> values = test::values({2, 16, 24}, DType::f64, -1, 1).to_vector<double>();
  for (size_t i = 0; i < values.size(); i += 3) values[i] = kNaN;
  for (Image kind : kImages) {
    const Array x = Array::zeros({2, 16, 24}, DType::bf16);
    host_kernels().copy(Array::from(values, {2, 16, 24}).view(), x.view());
    const Array dy = test::values({2, 16, 24}, DType::bf16, 1, 2, 2);
    check_affine(image(x, kind), {}, true, kind);
    check_input_gradient(image(dy, kind), image(x, kind), GateBy::channel, false, kind);
    Gates gates(x, GateBy::none, kind);
    gates.host.output = image(x, kind);
    gates.on.output = on_device(gates.host.output);
    // The values summed with x are finite.
    check_gradient_sums(image(dy, kind), image(dy, kind), gates, true, kind);
  }
}

struct Norm {
  Array weight, bias, inverse, scale, shift, running_mean, running_variance;

  ChannelNorm views() const {
    return {view_or_none(weight),
            view_or_none(bias),
            inverse.view(),
            scale.view(),
            shift.view(),
            view_or_none(running_mean),
            view_or_none(running_variance),
            1e-3,
            0.25,
            1.5};
  }
  Norm moved() const {
    return {on_device_or_none(weight),
            on_device_or_none(bias),
            on_device(inverse),
            on_device(scale),
            on_device(shift),
            on_device_or_none(running_mean),
            on_device_or_none(running_variance)};
  }
};

TEST(CudaChannels, NormOfTheStatistics) {
  for (DType dtype : {DType::f32, DType::f64}) {
    for (DType of_state : test::kFloats) {
      for (const bool given : {true, false}) {
        const auto state = [&](uint64_t seed) {
          return given ? test::values({700}, of_state, 0.5, 2, seed) : Array();
        };
        const Array mean = test::values({700}, dtype, -1, 1);
        const Array variance = test::values({700}, dtype, 0.5, 2, 2);
        const Array none = Array::zeros({700}, dtype);
        const Norm host{
            state(3), state(4), test::moved(none, {}), test::moved(none, {}), test::moved(none, {}),
            state(5), state(6)};
        const Norm on = host.moved();
        device_kernels().channel_norm(on_device(mean).view(), on_device(variance).view(),
                                      on.views());
        host_kernels().channel_norm(mean.view(), variance.view(), host.views());
        for (const auto& of : {&Norm::inverse, &Norm::scale, &Norm::shift}) {
          test::expect_near(on.*of, host.*of, test::tolerance(dtype));
        }
        if (!given) continue;
        test::expect_near(on.running_mean, host.running_mean, test::tolerance(of_state));
        test::expect_near(on.running_variance, host.running_variance, test::tolerance(of_state));
      }
    }
  }
}

TEST(CudaChannels, NormBackward) {
  for (DType dtype : {DType::f32, DType::f64}) {
    for (DType of_weight : test::kFloats) {
      const auto of = [&](uint64_t seed) { return test::values({700}, dtype, -1, 1, seed); };
      const Array mean = of(1), inverse = of(2), scale = of(3), sum = of(4), products = of(5);
      const Array slope = of(6), shift = of(6), dweight = Array::zeros({700}, of_weight);
      const Array on_slope = on_device(slope), on_shift = on_device(shift);
      const Array on_dweight = on_device(dweight);
      device_kernels().channel_norm_backward(on_device(mean).view(), on_device(inverse).view(),
                                             on_device(scale).view(), on_device(sum).view(),
                                             on_device(products).view(), 0.125, on_slope.view(),
                                             on_shift.view(), on_dweight.view());
      host_kernels().channel_norm_backward(mean.view(), inverse.view(), scale.view(), sum.view(),
                                           products.view(), 0.125, slope.view(), shift.view(),
                                           dweight.view());
      test::expect_near(on_slope, slope, test::tolerance(dtype));
      test::expect_near(on_shift, shift, test::tolerance(dtype));
      test::expect_near(on_dweight, dweight, test::tolerance(of_weight));
    }
  }
}

// A residual block, which ends in batch norm with a residual sum and a ReLU: the result, then the
// gradients of x and of the parameters.
std::vector<Array> block_results(Device device, bool trains) {
  nn::ResidualBlock block(16, 8, {.bottleneck = true, .stride = 2});
  block.place({.seed = 1});  // the initial values are those of the CPU
  nn::ResidualBlock on(16, 8, {.bottleneck = true, .stride = 2});
  on.place({.device = device, .seed = 1});
  std::map<std::string, Array> state;
  for (const nn::NamedArray& named : block.state()) state[named.name] = named.array;
  on.load_state(state);
  on.train(trains);
  const Array dense = test::values({3, 6, 6, 16}, DType::f32, -1, 1);
  const Tensor x = Tensor::variable(test::moved(dense, device));
  const Tensor y = on(permute(x, {0, 3, 1, 2}));
  sum(square(y)).backward();
  std::vector<Array> results{test::on_host(y.value()), test::on_host(x.grad().value())};
  for (const nn::NamedParameter& named : on.named_parameters()) {
    results.push_back(test::on_host(named.parameter.grad().value()));
  }
  for (const nn::NamedBuffer& named : on.named_buffers()) {
    results.push_back(test::on_host(named.buffer.array()));
  }
  return results;
}

TEST(CudaChannels, ResidualBlock) {
  for (const bool trains : {true, false}) {
    const std::vector<Array> host = block_results({}, trains);
    const std::vector<Array> on = block_results(test::device(), trains);
    ASSERT_EQ(on.size(), host.size());
    for (size_t i = 0; i < host.size(); ++i) {
      SCOPED_TRACE(i);
      test::expect_near(on[i], host[i], 1e-4, 10);
    }
  }
}

}  // namespace
}  // namespace lockstep
