#include "lockstep/autograd/ops/dropout.h"

#include "lockstep/autograd/ops/check.h"
#include "lockstep/autograd/ops/shape.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/ops/rows.h"

namespace lockstep {
namespace {

Tensor dropout_with(const Tensor& x, double p, RandomKey key, Into into) {
  return record({"dropout"}, kernels::dropout(x.value(), p, key, into), {&x},
                [p, key](const Tensor& dy, Gradients& out) {
                  out.add(0, [&](Into into) { return dropout_with(dy, p, key, into); });
                });
}

}  // namespace

Tensor dropout(const Tensor& x, double p, bool training) {
  internal::check_floating("dropout", x);
  LOCKSTEP_CHECK(p >= 0 && p <= 1, "dropout: probability ", p, ", expected one in [0, 1]");
  if (p == 0 || !training) return x;
  if (x.rank() == 0) return reshape(dropout(reshape(x, {1}), p), {});
  const RandomKey key = context().random;
  ++context().random.operation;
  return dropout_with(x, p, key, {});
}

}  // namespace lockstep
