#include <algorithm>

#include "lockstep/autograd/autocast.h"
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

struct Statistics {
  Array mean, variance;  // [channels], in the statistics' dtype
  bool of_batch = false;
};

Tensor batch_norm_formula(const Tensor& x, const Tensor& weight, const Tensor& bias,
                          const Statistics& running, double epsilon) {
  Tensor average = internal::along_channels(kernels::cast(running.mean, x.dtype()), x);
  Tensor variance = internal::along_channels(kernels::cast(running.variance, x.dtype()), x);
  std::vector<int> dims{0};
  for (int i = 2; i < x.rank(); ++i) dims.push_back(i);
  if (running.of_batch) average = mean(x, dims, true);
  const Tensor centered = x - average;
  if (running.of_batch) variance = mean(square(centered), dims, true);
  Tensor y = centered * rsqrt(variance + epsilon);
  if (weight) y = y * internal::along_channels(weight, x);
  if (bias) y = y + internal::along_channels(bias, x);
  return to(y, x.dtype());
}

// running = (1 - momentum) running + momentum * value
void move_towards(const Array& running, const Array& value, double momentum, double factor = 1) {
  if (!running) return;
  kernels::scale_add(momentum * factor, kernels::cast(value, running.dtype()), 1 - momentum,
                     running);
}

Statistics batch_statistics(const Tensor& x, const Array& running_mean, const Array& running_var,
                            double momentum) {
  kernels::ChannelMoments moments = kernels::channel_moments(x.value());
  const double count =
      static_cast<double>(x.elements()) / static_cast<double>(std::max<int64_t>(1, x.dim(1)));
  move_towards(running_mean, moments.mean, momentum);
  move_towards(running_var, moments.variance, momentum, count > 1 ? count / (count - 1) : 1);
  return {std::move(moments.mean), std::move(moments.variance), true};
}

// dx = scale * dy, and in training the part that flows through the statistics too: with the sums
// over a channel's n values, scale * (dy - sum(dy) / n - h * sum(dy h) / n), h the normalized x.
Tensor input_gradient(const Tensor& dy, const Tensor& x, const Tensor& scale, const Tensor& inverse,
                      const Statistics& statistics, const kernels::ChannelSums& sums) {
  const Tensor mean(statistics.mean);
  if (!statistics.of_batch) {
    return kernels::channel_affine(dy.value(), scale.value(), (mean * 0.0).value());
  }
  const double share = static_cast<double>(x.dim(1)) / static_cast<double>(x.elements());
  const Tensor slope = neg(scale * square(inverse) * Tensor(sums.products)) * share;
  const Tensor shift = neg(scale * Tensor(sums.dy)) * share - slope * mean;
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
                  if (statistics.of_batch || out.needs(1) || out.needs(2)) {
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
  if (autocasts("batch_norm", {&x, &weight, &bias})) {
    return batch_norm(autocast("batch_norm", x), running_mean, running_var,
                      autocast("batch_norm", weight), autocast("batch_norm", bias), options);
  }
  internal::check_channels("batch_norm", x,
                           {&running_mean, &running_var, &weight.value(), &bias.value()});
  if (options.training) {
    LOCKSTEP_CHECK(x.elements() == 0 || x.elements() != x.dim(1), "batch_norm: x of shape ",
                   x.shape(), ", expected more than one value a channel in training");
    // A recomputed batch has been counted.
    const bool counts = x.elements() > 0 && !context().recomputing;
    return normalize(x, weight, bias,
                     batch_statistics(x, counts ? running_mean : Array(),
                                      counts ? running_var : Array(), options.momentum),
                     options.epsilon);
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
