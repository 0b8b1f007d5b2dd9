#pragma once

#include <optional>

#include "lockstep/autograd/ops/normalization.h"
#include "lockstep/nn/module.h"

namespace lockstep::nn {

// Over the last dimensions, of shape `normalized_shape` (Ba, Kiros & Hinton 2016).
struct LayerNorm : Layer<LayerNorm> {
  struct Options {
    double eps = 1e-5;
    bool elementwise_affine = true;
    bool bias = true;
  };
  explicit LayerNorm(int64_t width) : LayerNorm(Shape{width}, Options()) {}
  LayerNorm(int64_t width, const Options& options) : LayerNorm(Shape{width}, options) {}
  explicit LayerNorm(const Shape& normalized_shape) : LayerNorm(normalized_shape, Options()) {}
  LayerNorm(const Shape& normalized_shape, const Options& options);
  Tensor forward(const Tensor& x);
  // A residual stream and its norm in one op (add_layer_norm): x + delta, and the norm of that,
  // which is to go into matrix products. delta may be empty.
  AddLayerNorm add(const Tensor& x, const Tensor& delta);
  // The norm of x + delta in one op; of the dtype that the norm of a sum has.
  Tensor of_sum(const Tensor& x, const Tensor& delta);
  void visit(Visitor& v) override;
  std::string describe() const override;

  Shape normalized_shape;
  double eps;
  Parameter weight, bias;  // empty where not wanted

 private:
  AddLayerNorm add(const Tensor& x, const Tensor& delta, bool for_products);
};

// x / sqrt(mean(x²) + eps) * weight over the last dimensions (Zhang & Sennrich 2019). Without eps:
// the smallest step of x's dtype at 1.
struct RMSNorm : Layer<RMSNorm> {
  struct Options {
    std::optional<double> eps = {};
    bool elementwise_affine = true;
  };
  explicit RMSNorm(int64_t width) : RMSNorm(Shape{width}, Options()) {}
  RMSNorm(int64_t width, const Options& options) : RMSNorm(Shape{width}, options) {}
  explicit RMSNorm(const Shape& normalized_shape) : RMSNorm(normalized_shape, Options()) {}
  RMSNorm(const Shape& normalized_shape, const Options& options);
  Tensor forward(const Tensor& x);
  void visit(Visitor& v) override;
  std::string describe() const override;

  Shape normalized_shape;
  std::optional<double> eps;
  Parameter weight;
};

// Each sample's channels in `num_groups` groups (Wu & He 2018). x [batch, channels, …].
struct GroupNorm : Layer<GroupNorm> {
  struct Options {
    double eps = 1e-5;
    bool affine = true;
  };
  GroupNorm(int64_t num_groups, int64_t num_channels)
      : GroupNorm(num_groups, num_channels, Options()) {}
  GroupNorm(int64_t num_groups, int64_t num_channels, const Options& options);
  Tensor forward(const Tensor& x);
  void visit(Visitor& v) override;
  std::string describe() const override;

  int64_t num_groups, num_channels;
  double eps;
  Parameter weight, bias;
};

struct InstanceNormOptions {
  double eps = 1e-5;
  bool affine = false;
};

// Each sample's channels alone (Ulyanov, Vedaldi & Lempitsky 2016), without running statistics. x
// [batch, features, spatial…].
template <int kSpatial>
struct InstanceNorm : Layer<InstanceNorm<kSpatial>> {
  using Options = InstanceNormOptions;
  explicit InstanceNorm(int64_t num_features, Options options = {});
  Tensor forward(const Tensor& x);
  void visit(Visitor& v) override;
  std::string type_name() const override;
  std::string describe() const override;

  int64_t num_features;
  Options options;
  Parameter weight, bias;  // empty unless affine
};

using InstanceNorm1d = InstanceNorm<1>;
using InstanceNorm2d = InstanceNorm<2>;

}  // namespace lockstep::nn
