#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/function.h"
#include "lockstep/autograd/ops/add_recorded.h"
#include "lockstep/autograd/ops/channel_checks.h"
#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/ops/normalization.h"
#include "lockstep/autograd/ops/reduce.h"
#include "lockstep/runtime/ops/channels.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep {
namespace {

// Every channel of every sample is a plane of its own; what is one value a plane is [batch,
// channels], what is one value a group [batch, groups, 1].
struct Planes {
  int64_t batch, channels, groups;
  Shape shape;       // [1, batch * channels, inner]
  Shape statistics;  // [1, batch * groups, the rest]

  Planes(const Tensor& x, int64_t groups) : batch(x.dim(0)), channels(x.dim(1)), groups(groups) {
    int64_t inner = 1;
    for (int i = 2; i < x.rank(); ++i) inner *= x.dim(i);
    shape = {1, batch * channels, inner};
    statistics = {1, batch * groups, channels / groups * inner};
  }

  Array view(const Array& x) const { return kernels::contiguous(x).reshape(shape); }
  double group_size() const { return static_cast<double>(statistics[2]); }
  // A group's value for each of its planes.
  Tensor spread(const Tensor& group) const {
    return reshape(expand(reshape(group, {batch, groups, 1}), {batch, groups, channels / groups}),
                   {batch, channels});
  }
  // The sum over the planes of each group, for each plane.
  Tensor group_sum(const Tensor& planes) const {
    return spread(sum(reshape(planes, {batch, groups, channels / groups}), {2}));
  }
};

Tensor group_norm_formula(const Tensor& x, int64_t groups, const Tensor& weight, const Tensor& bias,
                          double epsilon) {
  const Tensor grouped = reshape(x, {x.dim(0), groups, Planes(x, groups).statistics[2]});
  const Tensor centered = grouped - mean(grouped, {2}, true);
  const Tensor variance = mean(square(centered), {2}, true);
  Tensor y = reshape(centered * rsqrt(variance + epsilon), x.shape());
  if (weight) y = y * internal::along_channels(weight, x);
  if (bias) y = y + internal::along_channels(bias, x);
  return to(y, x.dtype());
}

struct Saves {
  Planes planes;
  Tensor mean, inverse, scale;  // [batch, channels]

  Array flat(const Tensor& x) const {
    return kernels::contiguous(x.value()).reshape({planes.shape[1]});
  }

  // With h the normalized x and g = dy * weight, over the n values of a group:
  // dx = (g - sum(g) / n - h * sum(g h) / n) / deviation.
  Tensor input_gradient(const Tensor& dy, const Tensor& x, const Tensor& dy_sums,
                        const Tensor& products) const {
    const Tensor slope =
        planes.group_sum(scale * products) * square(inverse) * (-1 / planes.group_size());
    const Tensor shift =
        planes.group_sum(scale * dy_sums) * (-1 / planes.group_size()) - slope * mean;
    return kernels::channel_input_gradient(planes.view(dy.value()), planes.view(x.value()),
                                           flat(scale), {}, {flat(slope), flat(shift)})
        .reshape(x.shape());
  }
};

Tensor normalize_groups(const Tensor& x, int64_t groups, const Tensor& weight, const Tensor& bias,
                        double epsilon) {
  Saves saves{Planes(x, groups), {}, {}, {}};
  Array y;
  {
    const Unrecorded one_op;
    const Planes& planes = saves.planes;
    const Array dense = planes.view(x.value());
    const kernels::ChannelMoments moments =
        kernels::channel_moments(dense.reshape(planes.statistics));
    const DType dtype = moments.mean.dtype();
    saves.mean = planes.spread(moments.mean);
    saves.inverse = planes.spread(rsqrt(Tensor(moments.variance) + epsilon));
    saves.scale = weight ? saves.inverse * to(weight, dtype) : saves.inverse;
    Tensor shift = neg(saves.mean * saves.scale);
    if (bias) shift = shift + to(bias, dtype);
    y = kernels::channel_affine(dense, saves.flat(saves.scale), saves.flat(shift))
            .reshape(x.shape());
  }
  return record({"group_norm"}, y, {&x, &weight, &bias},
                [x = Saved(x), weight = Saved(weight), bias = Saved(bias), saves, epsilon](
                    const Tensor& dy, Gradients& out) {
                  const Tensor w = weight ? *weight : Tensor(), b = bias ? *bias : Tensor();
                  const Planes& planes = saves.planes;
                  if (recording()) {
                    return internal::add_recorded(out, {*x, w, b}, dy, [&](auto in) {
                      return group_norm_formula(in[0], planes.groups, in[1], in[2], epsilon);
                    });
                  }
                  const kernels::ChannelSums sums = kernels::channel_gradient_sums(
                      planes.view(dy.value()), planes.view(x.value()), saves.flat(saves.mean));
                  const Shape each{planes.batch, planes.channels};
                  const Tensor dy_sums = sums.dy.reshape(each),
                               products = sums.products.reshape(each);
                  out.add(0, [&] { return saves.input_gradient(dy, *x, dy_sums, products); });
                  out.add(1, [&] { return to(sum(products * saves.inverse, {0}), w.dtype()); });
                  out.add(2, [&] { return to(sum(dy_sums, {0}), b.dtype()); });
                });
}

}  // namespace

Tensor group_norm(const Tensor& x, int64_t groups, const Tensor& weight, const Tensor& bias,
                  double epsilon) {
  if (autocasts("group_norm", {&x, &weight, &bias})) {
    return group_norm(autocast("group_norm", x), groups, autocast("group_norm", weight),
                      autocast("group_norm", bias), epsilon);
  }
  internal::check_channels("group_norm", x, {&weight.value(), &bias.value()});
  LOCKSTEP_CHECK(groups > 0 && x.dim(1) % groups == 0, "group_norm: ", groups, " groups of ",
                 x.dim(1), " channels, expected a divisor");
  return normalize_groups(x, groups, weight, bias, epsilon);
}

Tensor instance_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double epsilon) {
  if (autocasts("instance_norm", {&x, &weight, &bias})) {
    return instance_norm(autocast("instance_norm", x), autocast("instance_norm", weight),
                         autocast("instance_norm", bias), epsilon);
  }
  internal::check_channels("instance_norm", x, {&weight.value(), &bias.value()});
  int64_t inner = 1;
  for (int i = 2; i < x.rank(); ++i) inner *= x.dim(i);
  LOCKSTEP_CHECK(inner != 1, "instance_norm: x of shape ", x.shape(),
                 ", expected more than one value a channel");
  if (x.dim(1) == 0) return x;
  return normalize_groups(x, x.dim(1), weight, bias, epsilon);
}

}  // namespace lockstep
