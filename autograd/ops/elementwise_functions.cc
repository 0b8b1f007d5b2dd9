#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/function.h"
#include "lockstep/autograd/ops/elementwise.h"

#include <algorithm>
#include <cmath>

#include "lockstep/autograd/ops/reduce.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/ops/elementwise.h"

// Elementwise functions that are made of others.
namespace lockstep {
namespace {

void check_bool(const char* name, std::initializer_list<const Tensor*> operands) {
  for (const Tensor* operand : operands) {
    LOCKSTEP_CHECK(operand->dtype() == DType::boolean, name, ": a tensor of ", operand->dtype(),
                   ", expected bool (see logical_and and the like for others)");
  }
}

void check_alpha(const char* name, const Tensor& a, const Tensor& b, Scalar alpha) {
  const bool integers = !is_floating(a.dtype()) && !is_floating(b.dtype());
  LOCKSTEP_CHECK(!integers || !is_floating(alpha.dtype()), name, ": alpha ", alpha.to_double(),
                 " for tensors of ", a.dtype(), " and ", b.dtype(), ", expected an integer");
}

void assign(const char* name, Tensor& target, const Tensor& result) {
  // checkpoint()'s first run does what its second one does, which is recorded.
  if (recording() || context().touched != nullptr) {
    target = result;
    return;
  }
  LOCKSTEP_CHECK(result.shape() == target.shape(), name, ": a result of shape ", result.shape(),
                 " for a tensor of shape ", target.shape(), " in place, expected the same");
  LOCKSTEP_CHECK(is_floating(target.dtype()) || !is_floating(result.dtype()), name,
                 ": a result of ", result.dtype(), " for a tensor of ", target.dtype(),
                 " in place");
  for (int i = 0; i < target.rank(); ++i) {
    LOCKSTEP_CHECK(target.dim(i) < 2 || target.value().strides()[i] != 0, name,
                   ": a tensor expanded in dimension ", i, " cannot be written in place");
  }
  kernels::copy_into(result.value(), target.value());
}

// Who gets the gradient of clamp with tensors as bounds: shares for x, min and max that add up to
// 1. A value at one bound gives half to each; at both, all to x.
struct ClampShares {
  Tensor x, min, max;
};

ClampShares clamp_shares(const Tensor& x, const Tensor& min, const Tensor& max) {
  const DType dtype = x.dtype();
  const Tensor inside = to(~(max < min), dtype);
  const Tensor at_min = to((x == min) & (x != max), dtype);
  const Tensor at_max = to((x == max) & (x != min), dtype);
  const Tensor to_min = inside * (to(x < min, dtype) + at_min * 0.5);
  const Tensor to_max = (1 - inside) + inside * (to(x > max, dtype) + at_max * 0.5);
  return {1 - to_min - to_max, to_min, to_max};
}

// clamp for integers and bool, which a functor's attributes would round.
Tensor clamp_integer(const Tensor& x, std::optional<Scalar> low, std::optional<Scalar> high) {
  const Tensor raised = low ? maximum(x, Tensor(*low)) : x;
  return high ? minimum(raised, Tensor(*high)) : raised;
}

int64_t integer_bound(double bound) {
  return static_cast<int64_t>(std::clamp(bound, -0x1p62, 0x1p62));
}

}  // namespace

Tensor hardtanh(const Tensor& x, double min_value, double max_value) {
  LOCKSTEP_CHECK(min_value <= max_value, "hardtanh: bounds ", min_value, " and ", max_value,
                 ", expected the smaller first");
  if (!is_floating(x.dtype())) {
    return clamp_integer(x, integer_bound(min_value), integer_bound(max_value));
  }
  return internal::unary<math::HardTanh>(x, {min_value, max_value});
}

Tensor add(const Tensor& a, const Tensor& b, Scalar alpha) {
  check_alpha("add", a, b, alpha);
  return a + b * alpha;
}

Tensor sub(const Tensor& a, const Tensor& b, Scalar alpha) {
  check_alpha("sub", a, b, alpha);
  return a - b * alpha;
}

Tensor pow(const Tensor& a, Scalar exponent) {
  if (autocasts("pow", {&a})) return pow(autocast("pow", a), exponent);
  if (!is_floating(a.dtype())) {
    LOCKSTEP_CHECK(is_floating(exponent.dtype()) || exponent.to_integer() >= 0, "pow: exponent ",
                   exponent.to_double(), " for a tensor of ", a.dtype(),
                   ", expected no negative power of integers");
    return pow(a, Tensor(exponent));
  }
  const double value = exponent.to_double();
  if (value == 2) return square(a);
  if (value == 0.5) return sqrt(a);
  return internal::unary<math::PowScalar>(a, {value});
}

Tensor div(const Tensor& a, const Tensor& b, Rounding rounding) {
  if (rounding == Rounding::none) return div(a, b);
  return rounding == Rounding::floor ? floor_divide(a, b) : trunc_divide(a, b);
}

Tensor clamp(const Tensor& x, std::optional<Scalar> min, std::optional<Scalar> max) {
  LOCKSTEP_CHECK(min || max, "clamp: neither min nor max, expected one of them");
  if (!is_floating(x.dtype())) return clamp_integer(x, min, max);
  if (!max) return internal::unary<math::ClampMin>(x, {min->to_double()});
  if (!min) return internal::unary<math::ClampMax>(x, {max->to_double()});
  return internal::unary<math::Clamp>(x, {min->to_double(), max->to_double()});
}

Tensor clamp(const Tensor& x, const Tensor& min, const Tensor& max) {
  LOCKSTEP_CHECK(min || max, "clamp: neither min nor max, expected one of them");
  if (!max) return maximum(x, min);
  if (!min) return minimum(x, max);
  Tensor value;
  {
    const Unrecorded one_op;
    value = minimum(maximum(x, min), max);
  }
  if (!records({&x, &min, &max})) return value;
  const DType dtype = value.dtype();
  const Tensor a = to(x, dtype), low = to(min, dtype), high = to(max, dtype);
  return record(
      {"clamp"}, value.value(), {&a, &low, &high},
      [a = Saved(a), low = Saved(low), high = Saved(high)](const Tensor& dy, Gradients& out) {
        const ClampShares shares = clamp_shares(a->detach(), low->detach(), high->detach());
        out.add(0, [&] { return sum_to(dy * shares.x, a->shape()); });
        out.add(1, [&] { return sum_to(dy * shares.min, low->shape()); });
        out.add(2, [&] { return sum_to(dy * shares.max, high->shape()); });
      });
}

// From the nearer end, so that a weight of 1 gives b exactly.
Tensor lerp(const Tensor& a, const Tensor& b, const Tensor& weight) {
  const Tensor step = b - a;
  return where(weight < 0.5, a + weight * step, b - step * (1 - weight));
}

Tensor lerp(const Tensor& a, const Tensor& b, Scalar weight) {
  const Tensor step = b - a;
  const double w = weight.to_double();
  return w < 0.5 ? a + step * w : b - step * (1 - w);
}

Tensor addcmul(const Tensor& x, const Tensor& a, const Tensor& b, Scalar value) {
  return x + a * b * value;
}

Tensor& operator+=(Tensor& a, const Tensor& b) {
  assign("+=", a, a + b);
  return a;
}

Tensor& operator-=(Tensor& a, const Tensor& b) {
  assign("-=", a, a - b);
  return a;
}

Tensor& operator*=(Tensor& a, const Tensor& b) {
  assign("*=", a, a * b);
  return a;
}

Tensor& operator/=(Tensor& a, const Tensor& b) {
  assign("/=", a, a / b);
  return a;
}

Tensor isnan(const Tensor& x) { return x != x; }

Tensor isinf(const Tensor& x) {
  return abs(is_floating(x.dtype()) ? x : to(x, DType::f32)) == INFINITY;
}

Tensor isfinite(const Tensor& x) {
  return abs(is_floating(x.dtype()) ? x : to(x, DType::f32)) < INFINITY;
}

Tensor operator&(const Tensor& a, const Tensor& b) {
  check_bool("&", {&a, &b});
  return logical_and(a, b);
}

Tensor operator|(const Tensor& a, const Tensor& b) {
  check_bool("|", {&a, &b});
  return logical_or(a, b);
}

Tensor operator^(const Tensor& a, const Tensor& b) {
  check_bool("^", {&a, &b});
  return logical_xor(a, b);
}

Tensor operator~(const Tensor& x) {
  check_bool("~", {&x});
  return logical_not(x);
}

Tensor where(const Tensor& condition, Scalar a, Scalar b) {
  const Tensor chosen = where(condition, Tensor(a), Tensor(b));
  return Tensor(
      kernels::cast(chosen.value(), is_floating(chosen.dtype()) ? DType::f32 : chosen.dtype()));
}

Tensor Tensor::clone() const {
  LOCKSTEP_CHECK(*this, "clone: an empty tensor, expected one with values");
  return record({"clone"}, kernels::copy(value_), {this},
                [](const Tensor& dy, Gradients& out) { out.add(0, dy); });
}

Tensor Tensor::to(DType dtype) const { return lockstep::to(*this, dtype); }

Tensor Tensor::to(Device device) const { return lockstep::to(*this, device); }

}  // namespace lockstep
