#include "lockstep/autograd/ops/normalization.h"

#include <limits>

#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/ops/add_recorded.h"
#include "lockstep/autograd/ops/check.h"
#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/ops/reduce.h"
#include "lockstep/autograd/ops/shape.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/ops/rows.h"

namespace lockstep {
namespace {

Tensor softmax_backward(const Tensor& y, const Tensor& dy, bool log, Into into) {
  if (!recording()) return kernels::softmax_backward(y.value(), dy.value(), log, into);
  if (log) return dy - exp(y) * sum(dy, {-1}, true);
  return y * (dy - sum(y * dy, {-1}, true));
}

Tensor softmax_of(const char* name, const Tensor& x, int dim, bool log) {
  if (autocasts(name, {&x})) return softmax_of(name, autocast(name, x), dim, log);
  internal::check_floating(name, x);
  dim = internal::dim_of(name, x, dim);
  if (x.rank() == 0) return reshape(softmax_of(name, reshape(x, {1}), 0, log), {});
  if (dim != x.rank() - 1) {
    return transpose(softmax_of(name, transpose(x, dim, -1), -1, log), dim, -1);
  }
  const Array y = kernels::softmax(x.value(), log);
  return record({name}, y, {&x}, [log, y = Saved(y)](const Tensor& dy, Gradients& out) {
    out.add(0, [&](Into into) { return softmax_backward(out.own(y), dy, log, into); });
  });
}

}  // namespace

Tensor softmax(const Tensor& x, int dim) { return softmax_of("softmax", x, dim, false); }
Tensor log_softmax(const Tensor& x, int dim) { return softmax_of("log_softmax", x, dim, true); }

namespace {

// Both norms go over the last dimension; several become one first.

Tensor layer_norm_formula(const Tensor& x, const Tensor& weight, const Tensor& bias,
                          double epsilon) {
  const Tensor centered = x - mean(x, {-1}, true);
  Tensor y = centered * rsqrt(mean(square(centered), {-1}, true) + epsilon);
  if (weight) y = y * weight;
  if (bias) y = y + bias;
  return to(y, x.dtype());
}

Tensor rms_norm_formula(const Tensor& x, const Tensor& weight, double epsilon) {
  const Tensor y = x * rsqrt(mean(square(x), {-1}, true) + epsilon);
  return weight ? to(y * weight, x.dtype()) : y;
}

void check_normalized(const char* name, const Tensor& x, const Shape& normalized_shape,
                      std::initializer_list<const Tensor*> affine) {
  internal::check_floating(name, x);
  const int lead = x.rank() - normalized_shape.rank();
  LOCKSTEP_CHECK(
      normalized_shape.rank() > 0 && lead >= 0 &&
          std::equal(normalized_shape.begin(), normalized_shape.end(), x.shape().begin() + lead),
      name, ": a normalized shape of ", normalized_shape, " for x of shape ", x.shape(),
      ", expected its last dimensions");
  for (const Tensor* tensor : affine) {
    LOCKSTEP_CHECK(!*tensor || (tensor->shape() == normalized_shape &&
                                is_floating(tensor->dtype()) && tensor->device() == x.device()),
                   name, ": a weight or bias of shape ", tensor->shape(), " ", tensor->dtype(),
                   ", expected a floating one of ", normalized_shape, " on x's device");
  }
}

Shape rows_shape(const Tensor& x, const Shape& normalized_shape) {
  const int64_t width = normalized_shape.elements();
  int64_t rows = 1;
  for (int i = 0; i < x.rank() - normalized_shape.rank(); ++i) rows *= x.dim(i);
  return {rows, width};
}

Tensor flat(const Tensor& x) { return x ? reshape(x, {x.elements()}) : x; }

Tensor layer_norm_rows(const Tensor& x, const Tensor& weight, const Tensor& bias, double epsilon) {
  kernels::LayerNorm result = kernels::layer_norm(x.value(), weight.value(), bias.value(), epsilon);
  Array y = std::move(result.y);
  result.y = Array();
  return record({"layer_norm"}, std::move(y), {&x, &weight, &bias},
                [x = Saved(x), weight = Saved(weight), bias = Saved(bias),
                 result = std::move(result), epsilon](const Tensor& dy, Gradients& out) {
                  const Tensor w = weight ? *weight : Tensor(), b = bias ? *bias : Tensor();
                  if (recording()) {
                    return internal::add_recorded(out, {*x, w, b}, dy, [&](auto in) {
                      return layer_norm_formula(in[0], in[1], in[2], epsilon);
                    });
                  }
                  kernels::LayerNormWanted wanted{out.needs(0), out.needs(1), out.needs(2),
                                                  out.offer(0), out.offer(1), out.offer(2)};
                  if (b) wanted.bias_dtype = b.dtype();
                  const kernels::LayerNormGradients gradients = kernels::layer_norm_backward(
                      dy.value(), x.value(), w.value(), result, wanted);
                  out.deliver(0, gradients.x, wanted.into_x);
                  out.deliver(1, gradients.weight, wanted.into_weight);
                  out.deliver(2, gradients.bias, wanted.into_bias);
                });
}

Tensor rms_norm_rows(const Tensor& x, const Tensor& weight, double epsilon) {
  const kernels::RmsNorm result = kernels::rms_norm(x.value(), weight.value(), epsilon);
  return record({"rms_norm"}, result.y, {&x, &weight},
                [x = Saved(x), weight = Saved(weight), inverse_rms = result.inverse_rms, epsilon](
                    const Tensor& dy, Gradients& out) {
                  const Tensor w = weight ? *weight : Tensor();
                  if (recording()) {
                    return internal::add_recorded(out, {*x, w}, dy, [&](auto in) {
                      return rms_norm_formula(in[0], in[1], epsilon);
                    });
                  }
                  kernels::LayerNormWanted wanted{out.needs(0), out.needs(1), false, out.offer(0),
                                                  out.offer(1)};
                  const kernels::LayerNormGradients gradients = kernels::rms_norm_backward(
                      dy.value(), x.value(), w.value(), inverse_rms, wanted);
                  out.deliver(0, gradients.x, wanted.into_x);
                  out.deliver(1, gradients.weight, wanted.into_weight);
                });
}

double machine_epsilon(DType dtype) {
  switch (dtype) {
    case DType::f64: return std::numeric_limits<double>::epsilon();
    case DType::bf16: return 0x1p-7;
    case DType::f16: return 0x1p-10;
    default: return static_cast<double>(std::numeric_limits<float>::epsilon());
  }
}

}  // namespace

Tensor layer_norm(const Tensor& x, const Shape& normalized_shape, const Tensor& weight,
                  const Tensor& bias, double epsilon) {
  constexpr const char* kName = "layer_norm";
  if (autocasts(kName, {&x, &weight, &bias})) {
    return layer_norm(autocast(kName, x), normalized_shape, autocast(kName, weight),
                      autocast(kName, bias), epsilon);
  }
  check_normalized(kName, x, normalized_shape, {&weight, &bias});
  if (normalized_shape.rank() == 1) return layer_norm_rows(x, weight, bias, epsilon);
  const Tensor rows = reshape(x, rows_shape(x, normalized_shape));
  return reshape(layer_norm_rows(rows, flat(weight), flat(bias), epsilon), x.shape());
}

Tensor rms_norm(const Tensor& x, const Shape& normalized_shape, const Tensor& weight,
                std::optional<double> epsilon) {
  if (autocasts("rms_norm", {&x, &weight})) {
    return rms_norm(autocast("rms_norm", x), normalized_shape, autocast("rms_norm", weight),
                    epsilon);
  }
  check_normalized("rms_norm", x, normalized_shape, {&weight});
  const double added = epsilon.value_or(machine_epsilon(x.dtype()));
  if (normalized_shape.rank() == 1) return rms_norm_rows(x, weight, added);
  const Tensor rows = reshape(x, rows_shape(x, normalized_shape));
  return reshape(rms_norm_rows(rows, flat(weight), added), x.shape());
}

}  // namespace lockstep
