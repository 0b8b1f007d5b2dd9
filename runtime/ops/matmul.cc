#include "lockstep/runtime/ops/matmul.h"

#include "lockstep/runtime/context.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::kernels {
namespace {

// A layout that matrix libraries take: one of the last two strides 1, the other no overlap.
bool is_matrix(const Array& x) {
  const int64_t rows = x.dim(-2), columns = x.dim(-1);
  const int64_t row = x.strides()[x.rank() - 2], column = x.strides()[x.rank() - 1];
  const bool row_major = (column == 1 || columns == 1) && (row >= columns || rows == 1);
  const bool column_major = (row == 1 || rows == 1) && (column >= rows || columns == 1);
  return row_major || column_major;
}

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

}  // namespace

Array matmul(const Array& a, const Array& b, Into into) {
  const Operation operation("matmul");
  LOCKSTEP_CHECK(a && b, "matmul: an empty array, expected one with values");
  LOCKSTEP_CHECK(a.rank() >= 2 && b.rank() >= 2 && a.dim(-1) == b.dim(-2), "matmul: shapes ",
                 a.shape(), " and ", b.shape(), ", expected [..., m, k] and [..., k, n]");
  LOCKSTEP_CHECK(a.dtype() == b.dtype() && a.dtype() != DType::boolean, "matmul: dtypes ",
                 a.dtype(), " and ", b.dtype(), ", expected one, floating or integer");
  LOCKSTEP_CHECK(a.device() == b.device(), "matmul: devices ", a.device().to_string(), " and ",
                 b.device().to_string());
  const int64_t m = a.dim(-2), k = a.dim(-1), n = b.dim(-1);
  const Shape lead = broadcast_shapes("matmul", leading(a), leading(b));
  into = accept(into, with_matrix(lead, m, n), a.dtype(), a.device());
  const Array& out = into.destination;
  LOCKSTEP_CHECK(is_matrix(out), "matmul: the destination's rows overlap");
  Kernels& device = of(a);
  if (b.rank() == 2 && a.rank() > 2) {  // one product with all rows of a
    const Array rows = contiguous(a).reshape({lead.elements() * m, k});
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
  const Array y = Array::empty({x.dim(0), weight.dim(0)}, x.dtype(), x.device());
  of(x).linear(matrix(x).view(), matrix(weight).view(), bias ? bias.view() : View{}, y.view());
  return y;
}

}  // namespace lockstep::kernels
