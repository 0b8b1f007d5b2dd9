#include "lockstep/nn/models/resnet.h"

#include "lockstep/autograd/ops/convolution.h"
#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/ops/pooling.h"
#include "lockstep/autograd/ops/reduce.h"
#include "lockstep/nn/init.h"

namespace lockstep::nn {
namespace {

constexpr int64_t kExpansion = 4;  // of a bottleneck

Conv2d conv(int64_t in, int64_t out, int64_t kernel, int64_t stride = 1) {
  return Conv2d(in, out, {kernel},
                {.stride = {stride},
                 .padding = {kernel / 2},
                 .bias = false,
                 .weight_initializer = init::kaiming_normal(
                     {.mode = init::FanMode::fan_out, .nonlinearity = init::Nonlinearity::relu})});
}

}  // namespace

ResidualBlock::ResidualBlock(int64_t in_channels, int64_t channels, const Options& options)
    : conv1(options.bottleneck ? conv(in_channels, channels, 1)
                               : conv(in_channels, channels, 3, options.stride)),
      bn1(channels),
      conv2(conv(channels, channels, 3, options.bottleneck ? options.stride : 1)),
      bn2(channels) {
  const int64_t out_channels = options.bottleneck ? kExpansion * channels : channels;
  if (options.bottleneck) {
    conv3.emplace(conv(channels, out_channels, 1));
    bn3.emplace(out_channels);
  }
  if (options.stride != 1 || in_channels != out_channels) {
    downsample.emplace(
        Downsample{conv(in_channels, out_channels, 1, options.stride), BatchNorm2d(out_channels)});
  }
  if (options.zero_init) (bn3 ? *bn3 : bn2).weight.set_initializer(init::zeros());
}

Tensor ResidualBlock::forward(const Tensor& x) {
  Tensor y = conv2(bn1(conv1(x), Activation::relu));
  if (conv3) y = (*conv3)(bn2(y, Activation::relu));
  return (bn3 ? *bn3 : bn2)(y, Activation::relu,
                            downsample ? downsample->bn(downsample->conv(x)) : x);
}

void ResidualBlock::visit(Visitor& v) {
  v("conv1", conv1);
  v("bn1", bn1);
  v("conv2", conv2);
  v("bn2", bn2);
  v("conv3", conv3);
  v("bn3", bn3);
  if (!downsample) return;
  v("downsample.0", downsample->conv);
  v("downsample.1", downsample->bn);
}

ResNet::ResNet(const std::array<int, 4>& blocks, bool bottleneck, const Options& options)
    : options(options),
      conv1(options.small_images ? conv(3, 64, 3) : conv(3, 64, 7, 2)),
      bn1(64),
      fc(bottleneck ? 512 * kExpansion : 512, options.num_classes) {
  int64_t in_channels = 64, channels = 64;
  for (size_t stage = 0; stage < stages.size(); ++stage) {
    for (int i = 0; i < blocks[stage]; ++i) {
      stages[stage].emplace_back(in_channels, channels,
                                 ResidualBlock::Options{.bottleneck = bottleneck,
                                                        .stride = stage > 0 && i == 0 ? 2 : 1,
                                                        .zero_init = options.zero_init_residual});
      in_channels = bottleneck ? kExpansion * channels : channels;
    }
    channels *= 2;
  }
}

Tensor ResNet::forward(const Tensor& x) {
  LOCKSTEP_CHECK(x.rank() == 4 && x.dim(1) == 3, "ResNet: input of shape ", x.shape(),
                 ", expected [batch, 3, height, width]");
  Tensor y = bn1(conv1(channels_last(x)), Activation::relu);
  if (!options.small_images) {
    y = max_pool2d(y, {.kernel_size = {3}, .stride = {2}, .padding = {1}});
  }
  for (std::vector<ResidualBlock>& stage : stages) {
    for (ResidualBlock& block : stage) y = block(y);
  }
  return fc(mean(y, {2, 3}));
}

void ResNet::visit(Visitor& v) {
  v("conv1", conv1);
  v("bn1", bn1);
  for (size_t i = 0; i < stages.size(); ++i) v("layer" + std::to_string(i + 1), stages[i]);
  v("fc", fc);
}

ResNet resnet18(const ResNetOptions& options) { return ResNet({2, 2, 2, 2}, false, options); }
ResNet resnet50(const ResNetOptions& options) { return ResNet({3, 4, 6, 3}, true, options); }

}  // namespace lockstep::nn
