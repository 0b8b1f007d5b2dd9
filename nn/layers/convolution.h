#pragma once

#include <optional>
#include <vector>

#include "lockstep/nn/module.h"

namespace lockstep::nn {

// Lists have one entry for each spatial dimension, or one for all.
struct ConvolutionOptions {
  std::vector<int64_t> stride = {1};
  std::vector<int64_t> padding = {0};
  std::vector<int64_t> dilation = {1};
  int64_t groups = 1;
  bool same = false;  // padding="same": the output has the input's size; stride 1
  bool bias = true;
  std::optional<Initializer> weight_initializer = {};
  std::optional<Initializer> bias_initializer = {};
};

// x [batch, in, spatial…] or without batch. weight [out, in / groups, kernel…], bias [out]; both
// start uniform in ±1/sqrt(in / groups * kernel elements), as in PyTorch.
template <int kSpatial>
struct Convolution : Layer<Convolution<kSpatial>> {
  using Options = ConvolutionOptions;
  Convolution(int64_t in_channels, int64_t out_channels, std::vector<int64_t> kernel_size,
              Options options = {});
  Tensor forward(const Tensor& x);
  void visit(Visitor& v) override;
  std::string type_name() const override;
  std::string describe() const override;

  Parameter weight;
  Parameter bias;  // empty without one
  Options options;
};

struct ConvolutionTransposeOptions {
  std::vector<int64_t> stride = {1};
  std::vector<int64_t> padding = {0};
  std::vector<int64_t> output_padding = {0};
  std::vector<int64_t> dilation = {1};
  int64_t groups = 1;
  bool bias = true;
  std::optional<Initializer> weight_initializer = {};
  std::optional<Initializer> bias_initializer = {};
};

// A convolution's gradient as a layer. weight [in, out / groups, kernel…], bias [out]; both start
// uniform in ±1/sqrt(out / groups * kernel elements), as in PyTorch.
template <int kSpatial>
struct ConvolutionTranspose : Layer<ConvolutionTranspose<kSpatial>> {
  using Options = ConvolutionTransposeOptions;
  ConvolutionTranspose(int64_t in_channels, int64_t out_channels, std::vector<int64_t> kernel_size,
                       Options options = {});
  Tensor forward(const Tensor& x);
  void visit(Visitor& v) override;
  std::string type_name() const override;
  std::string describe() const override;

  Parameter weight;
  Parameter bias;  // empty without one
  Options options;
};

using Conv1d = Convolution<1>;
using Conv2d = Convolution<2>;
using Conv3d = Convolution<3>;
using ConvTranspose1d = ConvolutionTranspose<1>;
using ConvTranspose2d = ConvolutionTranspose<2>;
using ConvTranspose3d = ConvolutionTranspose<3>;

}  // namespace lockstep::nn
