#include "lockstep/runtime/ops/rows.h"

#include "lockstep/runtime/context.h"
#include "lockstep/runtime/math/compare.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "lockstep/runtime/ops/index.h"
#include "lockstep/runtime/ops/layout.h"

namespace lockstep::kernels {
namespace {

// [rows, width] window on a contiguous array.
Array as_rows(const Array& x) {
  LOCKSTEP_CHECK(x.rank() >= 1, "a row-wise op on a scalar");
  const int64_t width = x.dim(-1);
  return x.try_view({width == 0 ? 0 : x.elements() / width, width});
}

// Throws Error unless every target is a class or to be ignored. The device is waited for once, or
// not at all where the host knows.
void check_targets(const Array& targets, int64_t classes, int64_t ignore) {
  if (targets.elements() == 0 || known_within(targets, classes, ignore)) return;
  const Array ignored =
      compare("cross_entropy", {math::index_of<math::CompareOps, math::Eq>}, targets,
              Array::full({}, static_cast<double>(ignore), DType::i64, targets.device()));
  const Array some = Array::zeros({}, DType::i64, targets.device());
  check_range("cross_entropy", where(ignored, some, targets), classes);
}

// [rows, width] as it is where each row is dense, else a copy.
Array with_dense_rows(const Array& x) { return x.dim(1) <= 1 || x.strides()[1] == 1 ? x : copy(x); }

void check_affine(const char* name, const Array& weight, const Array& x) {
  if (!weight) return;
  LOCKSTEP_CHECK(weight.shape() == Shape{x.dim(-1)} && is_floating(weight.dtype()) &&
                     weight.device() == x.device(),
                 name, ": a weight or bias of shape ", weight.shape(), " ", weight.dtype(),
                 " for rows of ", x.dim(-1), " ", x.dtype());
}

// Kernels read as much of a result's gradient as there was of the result.
void check_gradient(const char* name, const Array& dy, const Shape& shape) {
  LOCKSTEP_CHECK(dy && dy.shape() == shape, name, ": a gradient of shape ", dy.shape(),
                 ", expected ", shape);
}

// The same for those that read it in the result's dtype.
void check_gradient(const char* name, const Array& dy, const Array& result) {
  check_gradient(name, dy, result.shape());
  LOCKSTEP_CHECK(dy.dtype() == result.dtype(), name, ": a gradient of shape ", dy.shape(), " ",
                 dy.dtype(), ", expected ", result.dtype());
}

// The view of a dense copy, which `memory` keeps; none for an empty array.
View dense_view(const Array& x, Array* memory) {
  if (!x) return View();
  *memory = contiguous(x);
  return memory->view();
}

// An offer serves a kernel that wants contiguous memory only where it is contiguous.
Into accept_contiguous(const Into& offer, const Shape& shape, DType dtype, Device device) {
  const bool fits = offer && offer.destination.contiguous();
  return accept(fits ? offer : Into(), shape, dtype, device);
}

}  // namespace

DType statistics_dtype(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

Array softmax(const Array& x, bool log) {
  const Operation operation(log ? "log_softmax" : "softmax");
  const Array dense = contiguous(x);
  Array y = Array::empty(x.shape(), x.dtype(), x.device());
  of(x).softmax(as_rows(dense).view(), as_rows(y).view(), log);
  return y;
}

Array softmax_backward(const Array& y, const Array& dy, bool log, Into into) {
  constexpr const char* kName = "softmax backward";
  const Operation operation(kName);
  check_gradient(kName, dy, y);
  into = accept_contiguous(into, y.shape(), y.dtype(), y.device());
  of(y).softmax_backward(as_rows(contiguous(y)).view(), as_rows(contiguous(dy)).view(),
                         as_rows(into.destination).view(), log, into.beta);
  return into.destination;
}

LayerNorm layer_norm(const Array& x, const Array& delta, const Array& weight, const Array& bias,
                     double epsilon, DType dtype) {
  const Operation operation("layer_norm");
  LOCKSTEP_CHECK(x.rank() >= 1, "layer_norm: a scalar");
  LOCKSTEP_CHECK(!delta || delta.shape() == x.shape(), "layer_norm: a sum of shapes ", x.shape(),
                 " and ", delta.shape());
  LOCKSTEP_CHECK(dtype == x.dtype() || (x.dtype() == DType::f32 && size_of(dtype) == 2),
                 "layer_norm: of ", x.dtype(), " in ", dtype);
  for (const Array* affine : {&weight, &bias}) check_affine("layer_norm", *affine, x);
  const Array dense = as_rows(contiguous(x));
  Array dense_weight, dense_bias, dense_delta;
  LayerNorm result;
  ResidualSum residual;
  if (delta) {
    dense_delta = as_rows(contiguous(delta));
    result.sum = Array::empty(x.shape(), x.dtype(), x.device());
    residual = {dense_delta.view(), as_rows(result.sum).view()};
  }
  result.y = Array::empty(x.shape(), dtype, x.device());
  const Shape rows{dense.dim(0)};
  result.mean = Array::empty(rows, statistics_dtype(x.dtype()), x.device());
  result.inverse_deviation = Array::empty(rows, statistics_dtype(x.dtype()), x.device());
  of(x).layer_norm(dense.view(), residual, dense_view(weight, &dense_weight),
                   dense_view(bias, &dense_bias), epsilon, as_rows(result.y).view(),
                   result.mean.view(), result.inverse_deviation.view());
  return result;
}

LayerNormGradients layer_norm_backward(const Array& dy, const Array& x, const Array& weight,
                                       const LayerNorm& saved, const LayerNormWanted& wanted) {
  constexpr const char* kName = "layer_norm backward";
  const Operation operation(kName);
  check_gradient(kName, dy, x.shape());
  if (wanted.dsum) check_gradient(kName, wanted.dsum, x);
  const Shape width{x.dim(-1)};
  const Array dense = as_rows(contiguous(x));
  Into dx, dweight, dbias;
  Array dsum, ddelta;
  ResidualGradient residual;
  if (wanted.dsum) {
    dsum = as_rows(contiguous(wanted.dsum));
    residual.dsum = dsum.view();
  }
  if (wanted.delta) {
    ddelta = Array::empty(x.shape(), wanted.delta_dtype, x.device());
    residual.ddelta = as_rows(ddelta).view();
  }
  if (wanted.x) {
    dx = accept_contiguous(wanted.dsum ? Into() : wanted.into_x, x.shape(), x.dtype(), x.device());
  }
  if (wanted.weight) {
    dweight = accept_contiguous(wanted.into_weight, width, weight.dtype(), x.device());
  }
  if (wanted.bias) {
    dbias = accept_contiguous(wanted.into_bias, width, wanted.bias_dtype, x.device());
  }
  const double betas[3] = {dx.beta, dweight.beta, dbias.beta};
  Array dense_weight;
  of(x).layer_norm_backward(
      as_rows(contiguous(dy)).view(), dense.view(), dense_view(weight, &dense_weight),
      saved.mean.view(), saved.inverse_deviation.view(), residual,
      dx ? as_rows(dx.destination).view() : View(), dweight ? dweight.destination.view() : View(),
      dbias ? dbias.destination.view() : View(), betas);
  return {dx.destination, dweight.destination, dbias.destination, ddelta};
}

RmsNorm rms_norm(const Array& x, const Array& weight, double epsilon) {
  const Operation operation("rms_norm");
  LOCKSTEP_CHECK(x.rank() >= 1, "rms_norm: a scalar");
  check_affine("rms_norm", weight, x);
  const Array dense = as_rows(contiguous(x));
  RmsNorm result{Array::empty(x.shape(), x.dtype(), x.device()),
                 Array::empty({dense.dim(0)}, statistics_dtype(x.dtype()), x.device())};
  Array dense_weight;
  of(x).rms_norm(dense.view(), dense_view(weight, &dense_weight), epsilon, as_rows(result.y).view(),
                 result.inverse_rms.view());
  return result;
}

LayerNormGradients rms_norm_backward(const Array& dy, const Array& x, const Array& weight,
                                     const Array& inverse_rms, const LayerNormWanted& wanted) {
  constexpr const char* kName = "rms_norm backward";
  const Operation operation(kName);
  check_gradient(kName, dy, x.shape());
  const Array dense = as_rows(contiguous(x));
  Into dx, dweight;
  if (wanted.x) dx = accept_contiguous(wanted.into_x, x.shape(), x.dtype(), x.device());
  if (wanted.weight) {
    dweight = accept_contiguous(wanted.into_weight, {x.dim(-1)}, weight.dtype(), x.device());
  }
  const double betas[2] = {dx.beta, dweight.beta};
  Array dense_weight;
  of(x).rms_norm_backward(as_rows(contiguous(dy)).view(), dense.view(),
                          dense_view(weight, &dense_weight), inverse_rms.view(),
                          dx ? as_rows(dx.destination).view() : View(),
                          dweight ? dweight.destination.view() : View(), betas);
  return {dx.destination, dweight.destination, {}, {}};
}

CrossEntropy cross_entropy(const Array& logits, const Array& targets, int64_t ignore) {
  const Operation operation("cross_entropy");
  LOCKSTEP_CHECK(logits.rank() == 2 && targets.shape() == Shape{logits.dim(0)},
                 "cross_entropy: logits of shape ", logits.shape(), " and targets of shape ",
                 targets.shape(), ", expected [rows, classes] and [rows]");
  LOCKSTEP_CHECK(targets.dtype() == DType::i64, "cross_entropy: targets of ", targets.dtype(),
                 ", expected i64");
  check_targets(targets, logits.dim(1), ignore);
  const DType dtype = statistics_dtype(logits.dtype());
  CrossEntropy result{Array::empty(targets.shape(), dtype, logits.device()),
                      Array::empty(targets.shape(), dtype, logits.device())};
  of(logits).cross_entropy(with_dense_rows(logits).view(), contiguous(targets).view(), ignore,
                           result.loss.view(), result.log_sum_exp.view());
  return result;
}

Array mean_loss(const Array& loss, const Array& targets, int64_t ignore) {
  const Operation operation("cross_entropy");
  const Array result = Array::empty({2}, loss.dtype(), loss.device());
  of(loss).mean_loss(contiguous(loss).view(), contiguous(targets).view(), ignore, result.view());
  return result;
}

Array cross_entropy_backward(const Array& logits, const Array& targets, int64_t ignore,
                             const Array& log_sum_exp, const Array& dloss, Into into) {
  const Operation operation("cross_entropy backward");
  if (!into && has_padded_rows(logits)) {
    into.destination = empty_rows(logits.shape(), logits.dtype(), logits.device());
  } else if (!has_separate_rows(into.destination)) {
    into = {};
  }
  into = accept(into, logits.shape(), logits.dtype(), logits.device());
  of(logits).cross_entropy_backward(with_dense_rows(logits).view(), contiguous(targets).view(),
                                    ignore, log_sum_exp.view(), dloss.view(),
                                    into.destination.view(), into.beta);
  return into.destination;
}

Array embedding(const Array& table, const Array& ids) {
  const Operation operation("embedding");
  LOCKSTEP_CHECK(table.rank() == 2, "embedding: a table of shape ", table.shape());
  const Array dense_ids = contiguous(as_index("embedding", ids, table));
  check_range("embedding", dense_ids, table.dim(0));
  Shape shape = ids.shape();
  shape.append(table.dim(1));
  Array out = Array::empty(shape, table.dtype(), table.device());
  of(table).embedding(contiguous(table).view(), dense_ids.reshape({ids.elements()}).view(),
                      out.reshape({ids.elements(), table.dim(1)}).view());
  return out;
}

Array embedding_backward(const Array& dy, const Array& ids, const Shape& table, Into into) {
  const Operation operation("embedding backward");
  into = accept_contiguous(into, table, dy.dtype(), dy.device());
  of(dy).embedding_backward(contiguous(dy).reshape({ids.elements(), table[1]}).view(),
                            contiguous(ids).reshape({ids.elements()}).view(),
                            into.destination.view(), into.beta);
  return into.destination;
}

namespace {

// The kernels want whole rows of features.
Array with_dense_features(const Array& x) {
  return x.dim(3) <= 1 || x.strides()[3] == 1 ? x : copy(x);
}

void set_bias(const Array& q, const Array& k, const Array& bias, AttentionOptions* options) {
  if (bias) options->bias = bias.expand({q.dim(0), q.dim(1), q.dim(2), k.dim(2)}).view();
}

}  // namespace

Attention attention(const Array& q, const Array& k, const Array& v, AttentionOptions options,
                    const Array& bias) {
  const Operation operation("attention");
  LOCKSTEP_CHECK(q.rank() == 4 && k.rank() == 4 && v.rank() == 4 && q.dim(0) == k.dim(0) &&
                     q.dim(1) == k.dim(1) && q.dim(3) == k.dim(3) && k.dim(2) == v.dim(2) &&
                     k.dim(0) == v.dim(0) && k.dim(1) == v.dim(1),
                 "attention: shapes ", q.shape(), ", ", k.shape(), ", ", v.shape(),
                 ", expected [batch, heads, time, feature]");
  const Array memory =
      Array::empty({q.dim(0), q.dim(2), q.dim(1), v.dim(3)}, q.dtype(), q.device());
  Attention result{memory.transpose(1, 2), Array::empty({q.dim(0), q.dim(1), q.dim(2)},
                                                        statistics_dtype(q.dtype()), q.device())};
  set_bias(q, k, bias, &options);
  const Array dense[] = {with_dense_features(q), with_dense_features(k), with_dense_features(v)};
  of(q).attention(dense[0].view(), dense[1].view(), dense[2].view(), options, result.out.view(),
                  result.log_sum_exp.view());
  return result;
}

void attention_backward(const Array& dout, const Array& q, const Array& k, const Array& v,
                        const Attention& saved, AttentionOptions options, const Array& bias,
                        const Array& dq, const Array& dk, const Array& dv) {
  constexpr const char* kName = "attention backward";
  const Operation operation(kName);
  check_gradient(kName, dout, saved.out);
  set_bias(q, k, bias, &options);
  const Array dense[] = {with_dense_features(dout), with_dense_features(q), with_dense_features(k),
                         with_dense_features(v)};
  of(q).attention_backward(dense[0].view(), dense[1].view(), dense[2].view(), dense[3].view(),
                           saved.out.view(), saved.log_sum_exp.view(), options, dq.view(),
                           dk.view(), dv.view());
}

Array dropout(const Array& x, double p, RandomKey key, Into into) {
  const Operation operation("dropout");
  LOCKSTEP_CHECK(p >= 0 && p <= 1, "dropout: probability ", p, ", expected one in [0, 1]");
  into = accept_contiguous(into, x.shape(), x.dtype(), x.device());
  of(x).dropout(contiguous(x).view(), p, key, into.destination.view(), into.beta);
  return into.destination;
}

}  // namespace lockstep::kernels
