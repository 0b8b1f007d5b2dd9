#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "lockstep/autograd/ops/pooling.h"
#include "lockstep/nn/module.h"

namespace lockstep::nn {

// Lists have one entry for each spatial dimension, or one for all. Without a stride it is the
// kernel's size.

struct MaxPoolOptions {
  std::vector<int64_t> stride = {};
  std::vector<int64_t> padding = {0};
  std::vector<int64_t> dilation = {1};
  bool ceil_mode = false;
};

// x [batch, channels, spatial…]; batch may be left out.
template <int kSpatial>
struct MaxPool : StatelessLayer<MaxPool<kSpatial>> {
  using Options = MaxPoolOptions;
  explicit MaxPool(std::vector<int64_t> kernel_size, Options options = {});
  Tensor forward(const Tensor& x);
  std::string type_name() const override;
  std::string describe() const override;

  PoolOptions pool;
};

struct AvgPoolLayerOptions {
  std::vector<int64_t> stride = {};
  std::vector<int64_t> padding = {0};
  bool ceil_mode = false;
  bool count_include_pad = true;
  std::optional<int64_t> divisor_override = {};  // 2-d only
};

template <int kSpatial>
struct AvgPool : StatelessLayer<AvgPool<kSpatial>> {
  using Options = AvgPoolLayerOptions;
  explicit AvgPool(std::vector<int64_t> kernel_size, Options options = {});
  Tensor forward(const Tensor& x);
  std::string type_name() const override;
  std::string describe() const override;

  AvgPoolOptions pool;
};

// To [batch, channels, height, width] of `output_size` (one entry: both).
struct AdaptiveAvgPool2d : StatelessLayer<AdaptiveAvgPool2d> {
  explicit AdaptiveAvgPool2d(std::vector<int64_t> output_size)
      : output_size(std::move(output_size)) {}
  Tensor forward(const Tensor& x) { return adaptive_avg_pool2d(x, output_size); }
  std::string describe() const override;

  std::vector<int64_t> output_size;
};

// interpolate() as a layer.
struct Upsample : StatelessLayer<Upsample> {
  explicit Upsample(InterpolateOptions options) : options(std::move(options)) {}
  Tensor forward(const Tensor& x) { return interpolate(x, options); }

  InterpolateOptions options;
};

using MaxPool1d = MaxPool<1>;
using MaxPool2d = MaxPool<2>;
using AvgPool1d = AvgPool<1>;
using AvgPool2d = AvgPool<2>;

}  // namespace lockstep::nn
