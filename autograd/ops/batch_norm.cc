#include <algorithm>
#include <utility>

#include "lockstep/autograd/function.h"
#include "lockstep/autograd/ops/add_recorded.h"
#include "lockstep/autograd/ops/channel_checks.h"
#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/ops/normalization.h"
#include "lockstep/autograd/ops/reduce.h"
#include "lockstep/runtime/ops/channels.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "lockstep/runtime/ops/rows.h"

namespace lockstep {
namespace {

using Group = std::shared_ptr<StatisticsGroup>;

struct Statistics {
  Array mean, variance;  // [channels], in the statistics' dtype
  double count = 0;      // values a channel of their batch; 0: none, or running statistics
  Group group = {};      // whose batch it is; null: this rank's
};

// A sum over the ranks. What each rank makes of it depends on all parts: the gradient of a part is
// the sum of the ranks' gradients.
Tensor over_ranks(const Group& group, const Tensor& x) {
  if (!group) return x;
  const Array total = kernels::copy(x.value());
  group->sum(total);
  return record({"sum_over_ranks"}, total, {&x}, [group](const Tensor& dy, Gradients& out) {
    out.add(0, [&] { return over_ranks(group, dy); });
  });
}

Tensor batch_norm_formula(const Tensor& input, const Tensor& weight, const Tensor& bias,
                          const Statistics& statistics, double epsilon) {
  const Tensor x = to(input, statistics.mean.dtype());
  Tensor average = internal::along_channels(statistics.mean, x);
  Tensor variance = internal::along_channels(statistics.variance, x);
  if (statistics.count > 0) {
    std::vector<int> dims{0};
    for (int i = 2; i < x.rank(); ++i) dims.push_back(i);
    const auto batch_mean = [&](const Tensor& values) {
      return over_ranks(statistics.group, sum(values, dims, true)) * (1 / statistics.count);
    };
    average = batch_mean(x);
    variance = batch_mean(square(x - average));
  }
  Tensor y = (x - average) * rsqrt(variance + epsilon);
  if (weight) y = y * internal::along_channels(weight, x);
  if (bias) y = y + internal::along_channels(bias, x);
  return to(y, input.dtype());
}

// Those of the ranks' batches as one, from each one's (Chan, Golub & LeVeque 1983).
Statistics join(const Statistics& mine, const Group& group) {
  const Unrecorded one_op;
  const DType dtype = mine.mean.dtype();
  const int64_t channels = mine.mean.elements();
  const auto exact = [](const Array& values) { return Tensor(kernels::cast(values, DType::f64)); };
  const Array count = Array::full({1}, mine.count, DType::f64, mine.mean.device());
  const Array sent = cat({exact(mine.mean), exact(mine.variance), Tensor(count)}).value();
  const Tensor all(group->gather(sent));  // [ranks, 2 * channels + 1]
  const Tensor means = narrow(all, 1, 0, channels), counts = narrow(all, 1, 2 * channels, 1);
  const Tensor variances = narrow(all, 1, channels, channels);
  const double total = sum(counts).item();
  const Tensor shares = counts / std::max(1.0, total);
  const Tensor mean = sum(shares * means, {0});
  const Tensor variance = sum(shares * (variances + square(means - mean)), {0});
  return {to(mean, dtype).value(), to(variance, dtype).value(), total, group};
}

Statistics batch_statistics(const Tensor& x, const Group& group) {
  kernels::ChannelMoments moments = kernels::channel_moments(x.value());
  const Statistics mine{
      std::move(moments.mean), std::move(moments.variance),
      static_cast<double>(x.elements()) / static_cast<double>(std::max<int64_t>(1, x.dim(1)))};
  return group ? join(mine, group) : mine;
}

// The sums over the batches of all ranks.
kernels::ChannelSums joined(const kernels::ChannelSums& mine, const Group& group) {
  const Tensor both = over_ranks(group, stack({Tensor(mine.dy), Tensor(mine.products)}));
  return {select(both, 0, 0).value(), select(both, 0, 1).value()};
}

// What a backward pass of the fused op has saved. Inputs: x, weight, bias, residual.
struct SavedNorm {
  Saved x, weight, bias;
  Saved output;  // of a ReLU over a sum with a residual
  Statistics statistics;
  kernels::ChannelScaling scaling;
  double epsilon;
  bool relu;

  // With g what the ReLU lets through of dy, dx = scale * g, and in training the part that flows
  // through the statistics too: with the sums over a channel's n values and h the normalized x,
  // scale * (g - sum(g) / n - h * sum(g h) / n).
  void backward(const Tensor& dy, Gradients& out) const {
    if (recording()) return backward_of_ops(dy, out);
    const bool trains = statistics.count > 0 && out.needs(0);
    const Into into_weight = out.offer(1), into_bias = out.offer(2);
    Array g = dy.value();
    kernels::ReluGate gate = this->gate();
    kernels::ChannelSums sums;
    if (trains || out.needs(1) || out.needs(2) || output) {
      sums = kernels::channel_gradient_sums(g, x.value(), statistics.mean, gate,
                                            if_replaced(into_bias));
    }
    if (output) {
      g = sums.gated;
      gate = {};
    }
    Array dweight;
    if (out.needs(1)) {
      dweight = kernels::accept(if_replaced(into_weight), weight->shape(), weight->dtype(),
                                weight->device())
                    .destination;
    }
    kernels::ChannelSlope through;
    if (trains || dweight) {
      const double share = statistics.count > 0 ? 1 / statistics.count : 0;
      through = kernels::channel_norm_backward(statistics.mean, scaling, sums, share, dweight);
      if (trains && statistics.group) {
        through = kernels::channel_norm_backward(statistics.mean, scaling,
                                                 joined(sums, statistics.group), share);
      }
    }
    if (!trains) through = {};
    out.add(0, [&] {
      return Tensor(kernels::channel_input_gradient(g, x.value(), scaling.scale, gate, through));
    });
    out.deliver(1, dweight, into_weight);
    if (out.needs(2)) out.deliver(2, to(Tensor(sums.dy), bias->dtype()), into_bias);
    out.add(3, g);
  }

 private:
  kernels::ReluGate gate() const {
    if (output) return {.output = output.value()};
    return relu ? kernels::ReluGate{scaling.scale, scaling.shift} : kernels::ReluGate{};
  }

  // An offer that nothing is added to.
  static Into if_replaced(const Into& offer) { return offer.beta == 0 ? offer : Into(); }

  void backward_of_ops(const Tensor& dy, Gradients& out) const {
    const Tensor g = output ? where(Tensor(output.value()) <= 0.0, 0.0, dy) : dy;
    out.add(3, g);
    const Tensor w = weight ? *weight : Tensor(), b = bias ? *bias : Tensor();
    internal::add_recorded(out, {*x, w, b}, g, [&](auto in) {
      const Tensor y = batch_norm_formula(in[0], in[1], in[2], statistics, epsilon);
      return relu && !output ? lockstep::relu(y) : y;
    });
  }
};

// y = (x - mean) / sqrt(variance + epsilon) * weight + bias, and what the options have it followed
// by, with its fused gradients.
Tensor normalize(const Tensor& x, const Tensor& weight, const Tensor& bias,
                 const Statistics& statistics, const BatchNormOptions& options,
                 const kernels::RunningMoments& running = {}) {
  const bool relu = options.activation == Activation::relu;
  const Tensor& residual = options.residual;
  const kernels::ChannelScaling scaling =
      kernels::channel_norm({statistics.mean, statistics.variance}, weight.value(), bias.value(),
                            options.epsilon, running);
  const Array y =
      kernels::channel_affine(x.value(), scaling.scale, scaling.shift, residual.value(), relu);
  return record(
      {relu ? "batch_norm_relu" : "batch_norm"}, y, {&x, &weight, &bias, &residual},
      [saved = SavedNorm{Saved(x), Saved(weight), Saved(bias), Saved(Tensor(y), relu && residual),
                         statistics, scaling, options.epsilon, relu}](
          const Tensor& dy, Gradients& out) { saved.backward(dy, out); });
}

// Whether it can be added in x's pass.
bool fits(const Tensor& residual, const Tensor& x) {
  return residual.shape() == x.shape() && residual.dtype() == x.dtype() &&
         residual.device() == x.device();
}

}  // namespace

Tensor batch_norm(const Tensor& x, const Array& running_mean, const Array& running_var,
                  const Tensor& weight, const Tensor& bias, BatchNormOptions options) {
  internal::check_channels("batch_norm", x,
                           {&running_mean, &running_var, &weight.value(), &bias.value()});
  if (options.residual && !fits(options.residual, x)) {
    const Tensor residual = std::exchange(options.residual, {});
    const Activation activation = std::exchange(options.activation, Activation::none);
    broadcast_shapes("batch_norm", x.shape(), residual.shape());
    LOCKSTEP_CHECK(residual.device() == x.device(), "batch_norm: a residual on ",
                   residual.device().to_string(), " for x on ", x.device().to_string());
    const Tensor sum = batch_norm(x, running_mean, running_var, weight, bias, options) + residual;
    return activation == Activation::relu ? relu(sum) : sum;
  }
  if (options.training) {
    const Statistics batch = batch_statistics(x, options.group);
    LOCKSTEP_CHECK(batch.count != 1, "batch_norm: x of shape ", x.shape(),
                   ", expected more than one value a channel in training");
    kernels::RunningMoments running;
    // A recomputed batch has been counted.
    if (batch.count > 0 && !context().recomputing) {
      running = {running_mean, running_var, options.momentum, batch.count / (batch.count - 1)};
    }
    return normalize(x, weight, bias, batch, options, running);
  }
  LOCKSTEP_CHECK(running_mean && running_var,
                 "batch_norm: no running statistics, expected both when not training");
  // Copies: a later call in training changes the running ones, which this call's gradient needs.
  const DType dtype = kernels::statistics_dtype(x.dtype());
  const auto own = [&](const Array& running) {
    return running.dtype() == dtype ? kernels::copy(running) : kernels::cast(running, dtype);
  };
  return normalize(x, weight, bias, {own(running_mean), own(running_var)}, options);
}

}  // namespace lockstep
