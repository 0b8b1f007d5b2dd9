#include "lockstep/runtime/ops/matmul.h"

#include "lockstep/runtime/context.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "lockstep/runtime/ops/layout.h"

namespace lockstep::kernels {

bool is_matrix(const Array& x) {
  const int64_t rows = x.dim(-2), columns = x.dim(-1);
  const int64_t row = x.strides()[x.rank() - 2], column = x.strides()[x.rank() - 1];
  const bool row_major = (column == 1 || columns == 1) && (row >= columns || rows == 1);
  const bool column_major = (row == 1 || rows == 1) && (column >= rows || columns == 1);
  return row_major || column_major;
}

namespace {

Array matrix(const Array& x) { return is_matrix(x) ? x : copy(x); }

Shape leading(const Array& x) {
  Shape shape = x.shape();
  shape.erase(shape.rank() - 1);
  shape.erase(shape.rank() - 1);
  return shape;
}

Shape with_matrix(Shape lead, int64_t rows, int64_t columns) {
  lead.append(rows);
  lead.append(columns);
  return lead;
}

bool is_result_of(DType operands, DType result) {
  return result == operands ||
         (result == DType::f32 && (operands == DType::bf16 || operands == DType::f16));
}

// An offer that a kernel's vector result can take.
Into accept_vector(const Into& offer, int64_t size, DType dtype, Device device) {
  const bool fits = offer && offer.destination.contiguous();
  return accept(fits ? offer : Into(), {size}, dtype, device);
}

}  // namespace

Array matmul(const Array& a, const Array& b, Into into, std::optional<DType> dtype) {
  const Operation operation("matmul");
  LOCKSTEP_CHECK(a && b, "matmul: an empty array, expected one with values");
  LOCKSTEP_CHECK(a.rank() >= 2 && b.rank() >= 2 && a.dim(-1) == b.dim(-2), "matmul: shapes ",
                 a.shape(), " and ", b.shape(), ", expected [..., m, k] and [..., k, n]");
  LOCKSTEP_CHECK(a.dtype() == b.dtype() && a.dtype() != DType::boolean, "matmul: dtypes ",
                 a.dtype(), " and ", b.dtype(), ", expected one, floating or integer");
  LOCKSTEP_CHECK(a.device() == b.device(), "matmul: devices ", a.device().to_string(), " and ",
                 b.device().to_string());
  LOCKSTEP_CHECK(!dtype || is_result_of(a.dtype(), *dtype), "matmul: a result of ", *dtype, " for ",
                 a.dtype());
  const int64_t m = a.dim(-2), k = a.dim(-1), n = b.dim(-1);
  const Shape lead = broadcast_shapes("matmul", leading(a), leading(b));
  into = accept(into, with_matrix(lead, m, n), dtype.value_or(a.dtype()), a.device());
  const Array& out = into.destination;
  LOCKSTEP_CHECK(is_matrix(out), "matmul: the destination's rows overlap");
  Kernels& device = of(a);
  if (b.rank() == 2 && a.rank() > 2) {  // one product with all rows of a
    Array rows = a.try_view({lead.elements() * m, k});
    if (!rows || !is_matrix(rows)) rows = contiguous(a).reshape({lead.elements() * m, k});
    if (const Array all = out.try_view({lead.elements() * m, n})) {
      device.matmul(rows.view(), matrix(b).view(), all.view(), into.beta);
      return out;
    }
  }
  device.matmul(matrix(a).expand(with_matrix(lead, m, k)).view(),
                matrix(b).expand(with_matrix(lead, k, n)).view(), out.view(), into.beta);
  return out;
}

Array linear(const Array& x, const Array& weight, const Array& bias) {
  LOCKSTEP_CHECK(x.dtype() != DType::boolean,
                 "linear: dtype bool, expected a floating or an integer one");
  LOCKSTEP_CHECK(weight.device() == x.device() && (!bias || bias.device() == x.device()),
                 "linear: devices ", x.device().to_string(), ", ", weight.device().to_string(),
                 " and ", (bias ? bias : x).device().to_string(), ", expected one");
  const Operation operation("linear");
  const Array y = empty_rows({x.dim(0), weight.dim(0)}, x.dtype(), x.device());
  of(x).linear(matrix(x).view(), matrix(weight).view(), bias ? bias.view() : View{}, y.view());
  return y;
}

LinearActivation linear_activation(const Array& x, const Array& weight, const Array& bias,
                                   Elementwise f, bool keeps_before) {
  LOCKSTEP_CHECK(weight.device() == x.device() && (!bias || bias.device() == x.device()),
                 "linear: devices ", x.device().to_string(), ", ", weight.device().to_string(),
                 " and ", (bias ? bias : x).device().to_string(), ", expected one");
  const Operation operation("linear");
  const Shape shape{x.dim(0), weight.dim(0)};
  const LinearActivation result{empty_rows(shape, x.dtype(), x.device()),
                                keeps_before ? empty_rows(shape, x.dtype(), x.device()) : Array()};
  of(x).linear_activation(matrix(x).view(), matrix(weight).view(), bias ? bias.view() : View{}, f,
                          keeps_before ? result.before.view() : View{}, result.y.view());
  return result;
}

LinearActivationGradient linear_activation_backward(const Array& dy, const Array& weight,
                                                    Elementwise f, const Array& before,
                                                    const LinearActivationWanted& wanted) {
  const Operation operation("linear backward");
  LinearActivationGradient result;
  result.x =
      wanted.memory ? wanted.memory : empty_rows(before.shape(), before.dtype(), before.device());
  Into bias;
  if (wanted.bias) {
    bias = accept_vector(wanted.into_bias, before.dim(1), wanted.bias_dtype, before.device());
    result.bias = bias.destination;
  }
  of(dy).linear_activation_backward(matrix(dy).view(), matrix(weight).view(), f, before.view(),
                                    result.x.view(), wanted.bias ? result.bias.view() : View{},
                                    bias.beta);
  return result;
}

LinearWeightGradient linear_weight_gradient(const Array& dy, const Array& x,
                                            const LinearWeightWanted& wanted) {
  const Operation operation("linear backward");
  LOCKSTEP_CHECK(is_result_of(dy.dtype(), wanted.weight_dtype), "linear: a gradient of ",
                 wanted.weight_dtype, " for ", dy.dtype());
  const bool fits = wanted.into_weight && is_matrix(wanted.into_weight.destination);
  const Into weight = accept(fits ? wanted.into_weight : Into(), {dy.dim(1), x.dim(1)},
                             wanted.weight_dtype, dy.device());
  LinearWeightGradient result{weight.destination, {}};
  Into bias;
  if (wanted.bias) {
    bias = accept_vector(wanted.into_bias, dy.dim(1), wanted.bias_dtype, dy.device());
    result.bias = bias.destination;
  }
  const double beta[] = {weight.beta, bias.beta};
  of(dy).linear_weight_gradient(matrix(dy).view(), matrix(x).view(), weight.destination.view(),
                                wanted.bias ? result.bias.view() : View{}, beta);
  return result;
}

}  // namespace lockstep::kernels
