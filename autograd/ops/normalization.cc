#include "lockstep/autograd/ops/normalization.h"

#include <limits>

#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/ops/add_recorded.h"
#include "lockstep/autograd/ops/check.h"
#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/ops/reduce.h"
#include "lockstep/autograd/ops/shape.h"
#include "lockstep/autograd/promotion.h"
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

// The result in `dtype`: x's or, of an f32 x, a 16-bit one.
Tensor layer_norm_rows(const Tensor& x, const Tensor& weight, const Tensor& bias, double epsilon,
                       DType dtype) {
  kernels::LayerNorm result =
      kernels::layer_norm(x.value(), {}, weight.value(), bias.value(), epsilon, dtype);
  Array y = std::move(result.y);
  result.y = Array();
  return record({"layer_norm"}, std::move(y), {&x, &weight, &bias},
                [x = Saved(x), weight = Saved(weight), bias = Saved(bias),
                 result = std::move(result), epsilon](const Tensor& dy, Gradients& out) {
                  const Tensor w = weight ? *weight : Tensor(), b = bias ? *bias : Tensor();
                  if (recording()) {
                    return internal::add_recorded(out, {*x, w, b}, dy, [&](auto in) {
                      return to(layer_norm_formula(in[0], in[1], in[2], epsilon), dy.dtype());
                    });
                  }
                  kernels::LayerNormWanted wanted{.x = out.needs(0),
                                                  .weight = out.needs(1),
                                                  .bias = out.needs(2),
                                                  .into_x = out.offer(0),
                                                  .into_weight = out.offer(1),
                                                  .into_bias = out.offer(2)};
                  if (b) wanted.bias_dtype = b.dtype();
                  const kernels::LayerNormGradients gradients = kernels::layer_norm_backward(
                      dy.value(), x.value(), w.value(), result, wanted);
                  out.deliver(0, gradients.x, wanted.into_x);
                  out.deliver(1, gradients.weight, wanted.into_weight);
                  out.deliver(2, gradients.bias, wanted.into_bias);
                });
}

// What a backward pass of add_layer_norm has saved.
struct SavedSum {
  Saved sum, weight, bias;
  kernels::LayerNorm statistics;  // without y and sum
  double epsilon;
  DType delta_dtype;

  // Inputs: x, delta, weight, bias. The gradient given of the sum, or dy, may be empty.
  void backward(const Tensor& given, const Tensor& dy, Gradients& out) const {
    if (recording() || !dy) return backward_of_ops(given, dy, out);
    const Tensor dsum = given ? to(given, sum->dtype()) : given;
    const bool rounds = delta_dtype != sum->dtype();
    kernels::LayerNormWanted wanted{.x = out.needs(0) || (out.needs(1) && !rounds),
                                    .weight = out.needs(2),
                                    .bias = out.needs(3),
                                    .into_weight = out.offer(2),
                                    .into_bias = out.offer(3),
                                    .delta = rounds && out.needs(1),
                                    .delta_dtype = delta_dtype};
    if (wanted.x && dsum && dsum.value().contiguous() && dsum.value().storage()->unique()) {
      wanted.into_x = {dsum.value(), 1};
    } else if (dsum) {
      wanted.dsum = dsum.value();
    }
    if (bias) wanted.bias_dtype = bias->dtype();
    const kernels::LayerNormGradients gradients = kernels::layer_norm_backward(
        dy.value(), sum.value(), weight.value_or_empty(), statistics, wanted);
    out.add(0, gradients.x);
    out.add(1, rounds ? gradients.delta : gradients.x);
    out.deliver(2, gradients.weight, wanted.into_weight);
    out.deliver(3, gradients.bias, wanted.into_bias);
  }

 private:
  void backward_of_ops(const Tensor& dsum, const Tensor& dy, Gradients& out) const {
    Tensor dx = dsum;
    if (dy) {
      const std::vector<Tensor> gradients = internal::recorded_gradients(
          {out.own(sum), weight ? *weight : Tensor(), bias ? *bias : Tensor()}, dy, [&](auto in) {
            return to(layer_norm_formula(in[0], in[1], in[2], epsilon), dy.dtype());
          });
      dx = dx ? dx + gradients[0] : gradients[0];
      out.add(2, gradients[1]);
      out.add(3, gradients[2]);
    }
    out.add(0, dx);
    out.add(1, [&] { return to(dx, delta_dtype); });
  }
};

// delta: of x's dtype or, beside an f32 x, of 16 bits. `dtype`: as in layer_norm_rows.
AddLayerNorm add_layer_norm_rows(const Tensor& x, const Tensor& delta, const Tensor& weight,
                                 const Tensor& bias, double epsilon, DType dtype) {
  if (!delta) return {x, layer_norm_rows(x, weight, bias, epsilon, dtype)};
  kernels::LayerNorm result =
      kernels::layer_norm(x.value(), delta.value(), weight.value(), bias.value(), epsilon, dtype);
  std::vector<Array> values{std::move(result.sum), std::move(result.y)};
  result.sum = result.y = Array();
  const Saved sum{Tensor(values[0])};
  const Tensor* inputs[] = {&x, &delta, &weight, &bias};
  const std::vector<Tensor> outputs =
      record_many({"add_layer_norm"}, std::move(values), inputs,
                  [saved = SavedSum{sum, Saved(weight), Saved(bias), std::move(result), epsilon,
                                    delta.dtype()}](std::span<const Tensor> dys, Gradients& out) {
                    saved.backward(dys[0], dys[1], out);
                  });
  return {outputs[0], outputs[1]};
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
  if (normalized_shape.rank() == 1) return layer_norm_rows(x, weight, bias, epsilon, x.dtype());
  const Tensor rows = reshape(x, rows_shape(x, normalized_shape));
  return reshape(layer_norm_rows(rows, flat(weight), flat(bias), epsilon, x.dtype()), x.shape());
}

AddLayerNorm add_layer_norm(const Tensor& x, const Tensor& delta, const Shape& normalized_shape,
                            const Tensor& weight, const Tensor& bias, AddLayerNormOptions options) {
  constexpr const char* kName = "add_layer_norm";
  check_normalized(kName, x, normalized_shape, {&weight, &bias});
  LOCKSTEP_CHECK(!delta || (delta.shape() == x.shape() && is_floating(delta.dtype()) &&
                            delta.device() == x.device()),
                 kName, ": a delta of shape ", delta.shape(), " ", delta.dtype(),
                 ", expected a floating one of x's ", x.shape(), " on its device");
  const DType dtype = delta ? promote_types(x.dtype(), delta.dtype()) : x.dtype();
  // layer_norm computes in f32 under autocast.
  const bool autocasts = context().autocast.on && dtype != DType::f64;
  const DType result = !autocasts             ? dtype
                       : options.for_products ? context().autocast.dtype
                                              : DType::f32;
  if (result != dtype && dtype != DType::f32) {
    const Tensor sum = delta ? x + delta : x;
    return {sum, to(layer_norm(sum, normalized_shape, weight, bias, options.epsilon), result)};
  }
  const Tensor gamma = autocasts ? autocast("layer_norm", weight) : weight;
  const Tensor beta = autocasts ? autocast("layer_norm", bias) : bias;
  const Tensor stream = to(x, dtype);
  const Tensor added = delta && dtype == DType::f64 ? to(delta, dtype) : delta;
  if (normalized_shape.rank() == 1) {
    return add_layer_norm_rows(stream, added, gamma, beta, options.epsilon, result);
  }
  const Shape rows = rows_shape(x, normalized_shape);
  const AddLayerNorm flattened =
      add_layer_norm_rows(reshape(stream, rows), added ? reshape(added, rows) : added, flat(gamma),
                          flat(beta), options.epsilon, result);
  return {delta ? reshape(flattened.sum, x.shape()) : x, reshape(flattened.normalized, x.shape())};
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
