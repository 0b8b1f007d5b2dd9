#include <algorithm>

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

// running = (1 - momentum) running + momentum * value
void move_towards(const Array& running, const Array& value, double momentum, double factor = 1) {
  if (!running) return;
  kernels::scale_add(momentum * factor, kernels::cast(value, running.dtype()), 1 - momentum,
                     running);
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

// dx = scale * dy, and in training the part that flows through the statistics too: with the sums
// over a channel's n values, scale * (dy - sum(dy) / n - h * sum(dy h) / n), h the normalized x.
Tensor input_gradient(const Tensor& dy, const Tensor& x, const Tensor& scale, const Tensor& inverse,
                      const Statistics& statistics, const kernels::ChannelSums& sums) {
  const Tensor mean(statistics.mean);
  if (statistics.count == 0) {
    return kernels::channel_affine(dy.value(), scale.value(), (mean * 0.0).value());
  }
  Tensor total(sums.dy), products(sums.products);
  if (statistics.group) {
    const Tensor both = over_ranks(statistics.group, stack({total, products}));
    total = select(both, 0, 0);
    products = select(both, 0, 1);
  }
  const double share = 1 / statistics.count;
  const Tensor slope = neg(scale * square(inverse) * products) * share;
  const Tensor shift = neg(scale * total) * share - slope * mean;
  return kernels::channel_affine(x.value(), slope.value(), shift.value(), dy.value(),
                                 scale.value());
}

// y = (x - mean) / sqrt(variance + epsilon) * weight + bias with its fused gradients.
Tensor normalize(const Tensor& x, const Tensor& weight, const Tensor& bias,
                 const Statistics& statistics, double epsilon) {
  const DType dtype = statistics.mean.dtype();
  Tensor inverse, scale;
  Array y;
  {
    const Unrecorded one_op;
    inverse = rsqrt(Tensor(statistics.variance) + epsilon);
    scale = weight ? inverse * to(weight, dtype) : inverse;
    Tensor shift = neg(Tensor(statistics.mean) * scale);
    if (bias) shift = shift + to(bias, dtype);
    y = kernels::channel_affine(x.value(), scale.value(), shift.value());
  }
  return record({"batch_norm"}, y, {&x, &weight, &bias},
                [x = Saved(x), weight = Saved(weight), bias = Saved(bias), inverse, scale,
                 statistics, epsilon](const Tensor& dy, Gradients& out) {
                  const Tensor w = weight ? *weight : Tensor(), b = bias ? *bias : Tensor();
                  if (recording()) {
                    return internal::add_recorded(out, {*x, w, b}, dy, [&](auto in) {
                      return batch_norm_formula(in[0], in[1], in[2], statistics, epsilon);
                    });
                  }
                  kernels::ChannelSums sums;
                  if (statistics.count > 0 || out.needs(1) || out.needs(2)) {
                    sums = kernels::channel_gradient_sums(dy.value(), x.value(), statistics.mean);
                  }
                  out.add(0,
                          [&] { return input_gradient(dy, *x, scale, inverse, statistics, sums); });
                  out.add(1, [&] { return to(Tensor(sums.products) * inverse, w.dtype()); });
                  out.add(2, [&] { return to(Tensor(sums.dy), b.dtype()); });
                });
}

}  // namespace

Tensor batch_norm(const Tensor& x, const Array& running_mean, const Array& running_var,
                  const Tensor& weight, const Tensor& bias, BatchNormOptions options) {
  internal::check_channels("batch_norm", x,
                           {&running_mean, &running_var, &weight.value(), &bias.value()});
  if (options.training) {
    const Statistics batch = batch_statistics(x, options.group);
    LOCKSTEP_CHECK(batch.count != 1, "batch_norm: x of shape ", x.shape(),
                   ", expected more than one value a channel in training");
    // A recomputed batch has been counted.
    if (batch.count > 0 && !context().recomputing) {
      const double unbiased = batch.count / (batch.count - 1);
      move_towards(running_mean, batch.mean, options.momentum);
      move_towards(running_var, batch.variance, options.momentum, unbiased);
    }
    return normalize(x, weight, bias, batch, options.epsilon);
  }
  LOCKSTEP_CHECK(running_mean && running_var,
                 "batch_norm: no running statistics, expected both when not training");
  // Copies: a later call in training changes the running ones, which this call's gradient needs.
  const DType dtype = kernels::statistics_dtype(x.dtype());
  const auto own = [&](const Array& running) {
    return running.dtype() == dtype ? kernels::copy(running) : kernels::cast(running, dtype);
  };
  return normalize(x, weight, bias, {own(running_mean), own(running_var)}, options.epsilon);
}

}  // namespace lockstep
