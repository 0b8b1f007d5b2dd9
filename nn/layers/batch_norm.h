#pragma once

#include <memory>
#include <optional>

#include "lockstep/autograd/ops/normalization.h"
#include "lockstep/nn/module.h"

namespace lockstep::nn {

struct BatchNormLayerOptions {
  double eps = 1e-5;
  std::optional<double> momentum = 0.1;  // of the running statistics; none: their mean over calls
  bool affine = true;
  bool track_running_stats = true;
};

// Over batch and space of x [batch, features, spatial…] (Ioffe & Szegedy 2015): with the batch's
// statistics in training, with the running ones in evaluation, or always the batch's without
// track_running_stats. The 1-d form takes [batch, features] too.
template <int kSpatial>
struct BatchNorm : Layer<BatchNorm<kSpatial>> {
  using Options = BatchNormLayerOptions;
  explicit BatchNorm(int64_t num_features, Options options = {});
  // layer(x, Activation::relu, residual) is relu(layer(x) + residual) in one op: see batch_norm().
  Tensor forward(const Tensor& x, Activation activation = Activation::none,
                 const Tensor& residual = {});
  void visit(Visitor& v) override;
  std::string type_name() const override;
  std::string describe() const override;

  int64_t num_features;
  Options options;
  Parameter weight, bias;  // empty unless affine
  Buffer running_mean, running_var, num_batches_tracked;
  // Whose batches are normalized as one in training (nn/parallel/sync_batch_norm.h). Null:
  // nobody's.
  std::shared_ptr<StatisticsGroup> statistics_group;
};

using BatchNorm1d = BatchNorm<1>;
using BatchNorm2d = BatchNorm<2>;
using BatchNorm3d = BatchNorm<3>;

}  // namespace lockstep::nn
