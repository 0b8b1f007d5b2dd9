#pragma once

#include <array>
#include <optional>
#include <vector>

#include "lockstep/nn/layers/basic.h"
#include "lockstep/nn/layers/batch_norm.h"
#include "lockstep/nn/layers/convolution.h"

// Residual networks (He, Zhang, Ren & Sun 2016) under torchvision's state names: conv1, bn1,
// layer1.0.conv1, …, layer1.0.downsample.0, …, fc. As there, a bottleneck's stride is in its 3x3
// convolution.
namespace lockstep::nn {

struct ResNetOptions {
  int64_t num_classes = 1000;
  // A 3x3 convolution of stride 1 without pooling in place of the 7x7 one of stride 2 and its
  // max-pool: for images of 32x32.
  bool small_images = false;
  // The last norm of each block starts at zero, so that the block starts as the identity (Goyal et
  // al. 2017).
  bool zero_init_residual = false;
};

// A residual block: two 3x3 convolutions, or with `bottleneck` 1x1, 3x3 and 1x1 to four times as
// many channels. The path beside it has a 1x1 convolution where the shape changes.
struct ResidualBlock : Layer<ResidualBlock> {
  struct Options {
    bool bottleneck = false;
    int64_t stride = 1;
    bool zero_init = false;
  };
  struct Downsample {
    Conv2d conv;  // "downsample.0"
    BatchNorm2d bn;
  };
  ResidualBlock(int64_t in_channels, int64_t channels, const Options& options);
  Tensor forward(const Tensor& x);
  void visit(Visitor& v) override;

  Conv2d conv1;
  BatchNorm2d bn1;
  Conv2d conv2;
  BatchNorm2d bn2;
  std::optional<Conv2d> conv3;
  std::optional<BatchNorm2d> bn3;
  std::optional<Downsample> downsample;
};

struct ResNet : Layer<ResNet> {
  using Options = ResNetOptions;
  // `blocks` in each of the four stages.
  ResNet(const std::array<int, 4>& blocks, bool bottleneck, const Options& options);
  // x [batch, 3, height, width] -> [batch, num_classes]. Fastest where x lies channels-last: a
  // [batch, height, width, 3] array permuted.
  Tensor forward(const Tensor& x);
  void visit(Visitor& v) override;

  Options options;
  Conv2d conv1;
  BatchNorm2d bn1;
  std::array<std::vector<ResidualBlock>, 4> stages;  // layer1 … layer4
  Linear fc;
};

ResNet resnet18(const ResNetOptions& options = {});
ResNet resnet50(const ResNetOptions& options = {});

}  // namespace lockstep::nn
