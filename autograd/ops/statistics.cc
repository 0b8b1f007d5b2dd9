#include <algorithm>
#include <cmath>

#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/function.h"
#include "lockstep/autograd/ops/check.h"
#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/ops/reduce.h"
#include "lockstep/autograd/ops/shape.h"
#include "lockstep/autograd/record.h"

namespace lockstep {

using internal::check_floating;
using internal::dim_of;

namespace {

// 16-bit floats: `f` of x in f32, rounded once.
bool is_short(const Tensor& x) { return is_floating(x.dtype()) && size_of(x.dtype()) == 2; }
template <class F>
Tensor in_f32(const Tensor& x, const F& f) {
  return to(f(to(x, DType::f32)), x.dtype());
}

int64_t count_of(const char* name, const Tensor& x, const std::vector<int>& dims) {
  if (dims.empty()) return x.elements();
  int64_t count = 1;
  for (int dim : dims) {
    const int i = dim_of(name, x, dim);
    if (x.rank() > 0) count *= x.dim(i);
  }
  return count;
}

// y, reduced over `dims` of x, with size 1 there.
Tensor keep_dims(const Tensor& y, const Tensor& x, const std::vector<int>& dims) {
  Shape shape = dims.empty() ? Shape::filled(x.rank(), 1) : x.shape();
  for (int dim : dims) {
    if (x.rank() > 0) shape[normalize_dim("reduce", dim, x.rank())] = 1;
  }
  return reshape(y, shape);
}

// The square root whose gradient at 0 is 0.
Tensor root(const Tensor& x) {
  const Tensor zero = x.detach() == Tensor(0.0);
  return where(zero, Tensor(0.0), sqrt(where(zero, Tensor(1.0), x)));
}

}  // namespace

Tensor var(const Tensor& x, std::vector<int> dims, double correction, bool keepdim) {
  check_floating("var", x);
  if (is_short(x)) {
    return in_f32(x, [&](const Tensor& wide) { return var(wide, dims, correction, keepdim); });
  }
  const double count = static_cast<double>(count_of("var", x, dims));
  const double freedom = std::max(0.0, count - correction);
  Tensor y;
  {
    const Unrecorded one_op;
    y = sum(square(x - mean(x, dims, true)), dims, keepdim) / freedom;
  }
  return record({"var"}, y.value(), {&x},
                [x = Saved(x), dims, freedom](const Tensor& dy, Gradients& out) {
                  out.add(0, [&] {
                    return keep_dims(dy, *x, dims) * (2 / freedom) * (*x - mean(*x, dims, true));
                  });
                });
}

Tensor stddev(const Tensor& x, std::vector<int> dims, double correction, bool keepdim) {
  check_floating("stddev", x);
  if (is_short(x)) {
    return in_f32(x, [&](const Tensor& wide) { return stddev(wide, dims, correction, keepdim); });
  }
  return root(var(x, std::move(dims), correction, keepdim));
}

Tensor logsumexp(const Tensor& x, std::vector<int> dims, bool keepdim) {
  if (autocasts("logsumexp", {&x})) {
    return logsumexp(autocast("logsumexp", x), std::move(dims), keepdim);
  }
  check_floating("logsumexp", x);
  if (is_short(x)) {
    return in_f32(x, [&](const Tensor& wide) { return logsumexp(wide, dims, keepdim); });
  }
  Tensor y;
  {
    const Unrecorded one_op;
    if (count_of("logsumexp", x, dims) == 0) {
      y = log(sum(x, dims, keepdim));  // of 0
    } else {
      const Tensor most = amax(x, dims, true);
      const Tensor finite = where(isinf(most), Tensor(0.0), most);
      const Tensor total = log(sum(exp(x - finite), dims, keepdim));
      y = total + reshape(finite, total.shape());
    }
  }
  return record({"logsumexp"}, y.value(), {&x},
                [x = Saved(x, x.requires_grad()), y = Saved(y, x.requires_grad()), dims](
                    const Tensor& dy, Gradients& out) {
                  out.add(0, [&] {
                    // Where all are -inf the shares are exp(-inf - 0).
                    const Tensor own = keep_dims(out.own(y), *x, dims);
                    const Tensor none = own.detach() == Tensor(-INFINITY);
                    const Tensor shares = exp(*x - where(none, Tensor(0.0), own));
                    return keep_dims(dy, *x, dims) * shares;
                  });
                });
}

namespace {

// sum |x|^p ^ (1/p) with the gradient 0 where x, or all of it, is 0.
Tensor power_norm(const Tensor& x, double p, const std::vector<int>& dims, bool keepdim) {
  const Tensor zero = x.detach() == Tensor(0.0);
  const double at_zero = p > 0 ? 0 : INFINITY;
  const Tensor powers = where(zero, Tensor(at_zero), pow(where(zero, Tensor(1.0), abs(x)), p));
  const Tensor total = sum(powers, dims, keepdim);
  const Tensor none = total.detach() == Tensor(0.0);
  return where(none, Tensor(p > 0 ? 0 : INFINITY), pow(where(none, Tensor(1.0), total), 1 / p));
}

Tensor count_nonzero(const Tensor& x, const std::vector<int>& dims, bool keepdim) {
  const Tensor count = sum(to(x.detach() != Tensor(0.0), x.dtype()), dims, keepdim);
  return record({"norm"}, count.value(), {&x}, [](const Tensor&, Gradients&) {});
}

}  // namespace

Tensor norm(const Tensor& x, double p, std::vector<int> dims, bool keepdim) {
  if (autocasts("norm", {&x})) return norm(autocast("norm", x), p, std::move(dims), keepdim);
  check_floating("norm", x);
  if (is_short(x)) {
    return in_f32(x, [&](const Tensor& wide) { return norm(wide, p, dims, keepdim); });
  }
  LOCKSTEP_CHECK((p >= 0 && !std::isinf(p)) || count_of("norm", x, dims) > 0, "norm: of order ", p,
                 " over nothing in shape ", x.shape());
  if (p == 0) return count_nonzero(x, dims, keepdim);
  if (p == 1) return sum(abs(x), std::move(dims), keepdim);
  if (p == 2) return root(sum(square(x), std::move(dims), keepdim));
  if (std::isinf(p)) return p > 0 ? amax(abs(x), dims, keepdim) : amin(abs(x), dims, keepdim);
  return power_norm(x, p, dims, keepdim);
}

}  // namespace lockstep
