#pragma once

#include <initializer_list>
#include <optional>

#include "lockstep/autograd/tensor.h"
#include "lockstep/runtime/math/binary.h"
#include "lockstep/runtime/math/compare.h"
#include "lockstep/runtime/math/unary.h"

// Shapes broadcast and dtypes are promoted by PyTorch's rules (promotion.h); a gradient has its
// operand's dtype. Functions that are not defined on integers take them to f32.
namespace lockstep {

namespace internal {
Tensor unary(int index, const Tensor& x, std::initializer_list<double> attributes);
Tensor binary(int index, const Tensor& a, const Tensor& b);
Tensor compare(int index, const Tensor& a, const Tensor& b);

template <class F>
Tensor unary(const Tensor& x, std::initializer_list<double> attributes = {}) {
  return unary(math::index_of<math::UnaryOps, F>, x, attributes);
}
template <class F>
Tensor binary(const Tensor& a, const Tensor& b) {
  return binary(math::index_of<math::BinaryOps, F>, a, b);
}
template <class F>
Tensor compare(const Tensor& a, const Tensor& b) {
  return compare(math::index_of<math::CompareOps, F>, a, b);
}
// A number as the second operand: one of a functor of its own where x is floating.
template <class Unary, class Binary>
Tensor with_number(const Tensor& x, Scalar number) {
  return is_floating(x.dtype()) ? unary<Unary>(x, {number.to_double()})
                                : binary<Binary>(x, Tensor(number));
}
}  // namespace internal

// Converted where it has to be; the gradient comes back in x's dtype and on its device.
Tensor to(const Tensor& x, DType dtype);
Tensor to(const Tensor& x, Device device);

// Elementwise, one operand.
inline Tensor neg(const Tensor& x) { return internal::unary<math::Neg>(x); }
inline Tensor abs(const Tensor& x) { return internal::unary<math::Abs>(x); }
inline Tensor sign(const Tensor& x) { return internal::unary<math::Sign>(x); }
inline Tensor exp(const Tensor& x) { return internal::unary<math::Exp>(x); }
inline Tensor expm1(const Tensor& x) { return internal::unary<math::Expm1>(x); }
inline Tensor log(const Tensor& x) { return internal::unary<math::Log>(x); }
inline Tensor log1p(const Tensor& x) { return internal::unary<math::Log1p>(x); }
inline Tensor log2(const Tensor& x) { return internal::unary<math::Log2>(x); }
inline Tensor sqrt(const Tensor& x) { return internal::unary<math::Sqrt>(x); }
inline Tensor rsqrt(const Tensor& x) { return internal::unary<math::Rsqrt>(x); }
inline Tensor reciprocal(const Tensor& x) { return internal::unary<math::Reciprocal>(x); }
inline Tensor square(const Tensor& x) {
  return internal::unary<math::Square>(x.dtype() == DType::boolean ? to(x, DType::i64) : x);
}
inline Tensor sin(const Tensor& x) { return internal::unary<math::Sin>(x); }
inline Tensor cos(const Tensor& x) { return internal::unary<math::Cos>(x); }
inline Tensor tan(const Tensor& x) { return internal::unary<math::Tan>(x); }
inline Tensor asin(const Tensor& x) { return internal::unary<math::Asin>(x); }
inline Tensor acos(const Tensor& x) { return internal::unary<math::Acos>(x); }
inline Tensor atan(const Tensor& x) { return internal::unary<math::Atan>(x); }
inline Tensor sinh(const Tensor& x) { return internal::unary<math::Sinh>(x); }
inline Tensor cosh(const Tensor& x) { return internal::unary<math::Cosh>(x); }
inline Tensor tanh(const Tensor& x) { return internal::unary<math::Tanh>(x); }
inline Tensor erf(const Tensor& x) { return internal::unary<math::Erf>(x); }
inline Tensor erfc(const Tensor& x) { return internal::unary<math::Erfc>(x); }
inline Tensor floor(const Tensor& x) { return internal::unary<math::Floor>(x); }
inline Tensor ceil(const Tensor& x) { return internal::unary<math::Ceil>(x); }
inline Tensor round(const Tensor& x) { return internal::unary<math::Round>(x); }
inline Tensor trunc(const Tensor& x) { return internal::unary<math::Trunc>(x); }

// The non-linearities of neural networks.
inline Tensor sigmoid(const Tensor& x) { return internal::unary<math::Sigmoid>(x); }
inline Tensor logsigmoid(const Tensor& x) { return internal::unary<math::LogSigmoid>(x); }
inline Tensor relu(const Tensor& x) { return internal::unary<math::Relu>(x); }
inline Tensor selu(const Tensor& x) { return internal::unary<math::Selu>(x); }
inline Tensor silu(const Tensor& x) { return internal::unary<math::Silu>(x); }
inline Tensor mish(const Tensor& x) { return internal::unary<math::Mish>(x); }
inline Tensor hardswish(const Tensor& x) { return internal::unary<math::HardSwish>(x); }
inline Tensor hardsigmoid(const Tensor& x) { return internal::unary<math::HardSigmoid>(x); }
inline Tensor softsign(const Tensor& x) { return internal::unary<math::Softsign>(x); }
inline Tensor leaky_relu(const Tensor& x, double negative_slope = 0.01) {
  return internal::unary<math::LeakyRelu>(x, {negative_slope});
}
inline Tensor elu(const Tensor& x, double alpha = 1) {
  return internal::unary<math::Elu>(x, {alpha});
}
inline Tensor celu(const Tensor& x, double alpha = 1) {
  return internal::unary<math::Celu>(x, {alpha});
}
inline Tensor softplus(const Tensor& x, double beta = 1, double threshold = 20) {
  return internal::unary<math::Softplus>(x, {beta, threshold});
}
Tensor hardtanh(const Tensor& x, double min_value = -1, double max_value = 1);
inline Tensor relu6(const Tensor& x) { return hardtanh(x, 0, 6); }
enum class GeluForm { erf, tanh };
inline Tensor gelu(const Tensor& x, GeluForm form = GeluForm::erf) {
  return form == GeluForm::erf ? internal::unary<math::Gelu>(x)
                               : internal::unary<math::GeluTanh>(x);
}

// Elementwise, two operands. A Tensor operand may be a number instead where PyTorch takes one.
inline Tensor add(const Tensor& a, const Tensor& b) { return internal::binary<math::Add>(a, b); }
inline Tensor sub(const Tensor& a, const Tensor& b) { return internal::binary<math::Sub>(a, b); }
inline Tensor mul(const Tensor& a, const Tensor& b) { return internal::binary<math::Mul>(a, b); }
inline Tensor div(const Tensor& a, const Tensor& b) { return internal::binary<math::Div>(a, b); }
inline Tensor pow(const Tensor& a, const Tensor& b) { return internal::binary<math::Pow>(a, b); }
inline Tensor maximum(const Tensor& a, const Tensor& b) {
  return internal::binary<math::Maximum>(a, b);
}
inline Tensor minimum(const Tensor& a, const Tensor& b) {
  return internal::binary<math::Minimum>(a, b);
}
// The angle of the point (x = b, y = a).
inline Tensor atan2(const Tensor& a, const Tensor& b) {
  return internal::binary<math::Atan2>(a, b);
}
// The remainder with the sign of the dividend, and with the sign of the divisor. Of integers by 0:
// Error, as for the quotients.
inline Tensor fmod(const Tensor& a, const Tensor& b) { return internal::binary<math::Fmod>(a, b); }
inline Tensor remainder(const Tensor& a, const Tensor& b) {
  return internal::binary<math::Remainder>(a, b);
}
inline Tensor floor_divide(const Tensor& a, const Tensor& b) {
  return internal::binary<math::FloorDivide>(a, b);
}
inline Tensor trunc_divide(const Tensor& a, const Tensor& b) {
  return internal::binary<math::TruncDivide>(a, b);
}

inline Tensor add(const Tensor& a, Scalar b) {
  return internal::with_number<math::AddScalar, math::Add>(a, b);
}
inline Tensor mul(const Tensor& a, Scalar b) {
  return internal::with_number<math::MulScalar, math::Mul>(a, b);
}
inline Tensor div(const Tensor& a, Scalar b) {
  return internal::with_number<math::DivScalar, math::Div>(a, b);
}
inline Tensor sub(const Tensor& a, Scalar b) {
  return is_floating(a.dtype()) ? add(a, -b.to_double()) : sub(a, Tensor(b));
}
// a + alpha * b and a - alpha * b.
Tensor add(const Tensor& a, const Tensor& b, Scalar alpha);
Tensor sub(const Tensor& a, const Tensor& b, Scalar alpha);
// Of integers: no negative exponent.
Tensor pow(const Tensor& a, Scalar exponent);
inline Tensor pow(Scalar a, const Tensor& b) { return pow(Tensor(a), b); }
inline Tensor fmod(const Tensor& a, Scalar b) { return fmod(a, Tensor(b)); }
inline Tensor remainder(const Tensor& a, Scalar b) { return remainder(a, Tensor(b)); }

// floor and trunc keep integers integers; their derivative is 0.
enum class Rounding { none, floor, trunc };
Tensor div(const Tensor& a, const Tensor& b, Rounding rounding);
inline Tensor div(const Tensor& a, Scalar b, Rounding rounding) {
  return div(a, Tensor(b), rounding);
}

// Numbers as bounds: the derivative at a bound is 0. Tensors as bounds (either may be empty): at a
// bound x and the bound have half of the gradient each. Where min > max the result is max.
Tensor clamp(const Tensor& x, std::optional<Scalar> min, std::optional<Scalar> max);
Tensor clamp(const Tensor& x, const Tensor& min, const Tensor& max);
// a + weight * (b - a).
Tensor lerp(const Tensor& a, const Tensor& b, const Tensor& weight);
Tensor lerp(const Tensor& a, const Tensor& b, Scalar weight);
// x + value * a * b.
Tensor addcmul(const Tensor& x, const Tensor& a, const Tensor& b, Scalar value = 1);

inline Tensor operator+(const Tensor& a, const Tensor& b) { return add(a, b); }
inline Tensor operator-(const Tensor& a, const Tensor& b) { return sub(a, b); }
inline Tensor operator*(const Tensor& a, const Tensor& b) { return mul(a, b); }
inline Tensor operator/(const Tensor& a, const Tensor& b) { return div(a, b); }
inline Tensor operator-(const Tensor& x) { return neg(x); }
inline Tensor operator+(const Tensor& a, Scalar b) { return add(a, b); }
inline Tensor operator+(Scalar a, const Tensor& b) { return add(b, a); }
inline Tensor operator-(const Tensor& a, Scalar b) { return sub(a, b); }
inline Tensor operator-(Scalar a, const Tensor& b) { return sub(Tensor(a), b); }
inline Tensor operator*(const Tensor& a, Scalar b) { return mul(a, b); }
inline Tensor operator*(Scalar a, const Tensor& b) { return mul(b, a); }
inline Tensor operator/(const Tensor& a, Scalar b) { return div(a, b); }
inline Tensor operator/(Scalar a, const Tensor& b) { return div(Tensor(a), b); }

// While ops record, and in what checkpoint() runs, `a += b` makes `a` name the result of a + b:
// nothing is written in place. While they do not (NoGrad), the values of `a` change in memory, for
// all who share them, and a leaf stays one: how a parameter is updated by hand.
Tensor& operator+=(Tensor& a, const Tensor& b);
Tensor& operator-=(Tensor& a, const Tensor& b);
Tensor& operator*=(Tensor& a, const Tensor& b);
Tensor& operator/=(Tensor& a, const Tensor& b);
inline Tensor& operator+=(Tensor& a, Scalar b) { return a += Tensor(b); }
inline Tensor& operator-=(Tensor& a, Scalar b) { return a -= Tensor(b); }
inline Tensor& operator*=(Tensor& a, Scalar b) { return a *= Tensor(b); }
inline Tensor& operator/=(Tensor& a, Scalar b) { return a /= Tensor(b); }

// bool tensors, without a gradient.
inline Tensor eq(const Tensor& a, const Tensor& b) { return internal::compare<math::Eq>(a, b); }
inline Tensor ne(const Tensor& a, const Tensor& b) { return internal::compare<math::Ne>(a, b); }
inline Tensor lt(const Tensor& a, const Tensor& b) { return internal::compare<math::Lt>(a, b); }
inline Tensor le(const Tensor& a, const Tensor& b) { return internal::compare<math::Le>(a, b); }
inline Tensor gt(const Tensor& a, const Tensor& b) { return internal::compare<math::Gt>(a, b); }
inline Tensor ge(const Tensor& a, const Tensor& b) { return internal::compare<math::Ge>(a, b); }
inline Tensor eq(const Tensor& a, Scalar b) { return eq(a, Tensor(b)); }
inline Tensor ne(const Tensor& a, Scalar b) { return ne(a, Tensor(b)); }
inline Tensor lt(const Tensor& a, Scalar b) { return lt(a, Tensor(b)); }
inline Tensor le(const Tensor& a, Scalar b) { return le(a, Tensor(b)); }
inline Tensor gt(const Tensor& a, Scalar b) { return gt(a, Tensor(b)); }
inline Tensor ge(const Tensor& a, Scalar b) { return ge(a, Tensor(b)); }
inline Tensor operator==(const Tensor& a, const Tensor& b) { return eq(a, b); }
inline Tensor operator!=(const Tensor& a, const Tensor& b) { return ne(a, b); }
inline Tensor operator<(const Tensor& a, const Tensor& b) { return lt(a, b); }
inline Tensor operator<=(const Tensor& a, const Tensor& b) { return le(a, b); }
inline Tensor operator>(const Tensor& a, const Tensor& b) { return gt(a, b); }
inline Tensor operator>=(const Tensor& a, const Tensor& b) { return ge(a, b); }
inline Tensor operator==(const Tensor& a, Scalar b) { return eq(a, b); }
inline Tensor operator!=(const Tensor& a, Scalar b) { return ne(a, b); }
inline Tensor operator<(const Tensor& a, Scalar b) { return lt(a, b); }
inline Tensor operator<=(const Tensor& a, Scalar b) { return le(a, b); }
inline Tensor operator>(const Tensor& a, Scalar b) { return gt(a, b); }
inline Tensor operator>=(const Tensor& a, Scalar b) { return ge(a, b); }
inline Tensor operator==(Scalar a, const Tensor& b) { return eq(b, a); }
inline Tensor operator!=(Scalar a, const Tensor& b) { return ne(b, a); }
inline Tensor operator<(Scalar a, const Tensor& b) { return gt(b, a); }
inline Tensor operator<=(Scalar a, const Tensor& b) { return ge(b, a); }
inline Tensor operator>(Scalar a, const Tensor& b) { return lt(b, a); }
inline Tensor operator>=(Scalar a, const Tensor& b) { return le(b, a); }
Tensor isnan(const Tensor& x);
Tensor isinf(const Tensor& x);
Tensor isfinite(const Tensor& x);

// Of any dtype: what is not 0 is true.
inline Tensor logical_and(const Tensor& a, const Tensor& b) {
  return internal::compare<math::LogicalAnd>(a, b);
}
inline Tensor logical_or(const Tensor& a, const Tensor& b) {
  return internal::compare<math::LogicalOr>(a, b);
}
inline Tensor logical_xor(const Tensor& a, const Tensor& b) {
  return internal::compare<math::LogicalXor>(a, b);
}
inline Tensor logical_not(const Tensor& x) { return eq(x, Tensor(false)); }
// Of bool tensors only.
Tensor operator&(const Tensor& a, const Tensor& b);
Tensor operator|(const Tensor& a, const Tensor& b);
Tensor operator^(const Tensor& a, const Tensor& b);
Tensor operator~(const Tensor& x);

// condition ? a : b. Both branches are evaluated and differentiated: a branch that is not chosen
// must still be finite, or its NaN survives the multiplication by zero.
Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b);
inline Tensor where(const Tensor& condition, const Tensor& a, Scalar b) {
  return where(condition, a, Tensor(b));
}
inline Tensor where(const Tensor& condition, Scalar a, const Tensor& b) {
  return where(condition, Tensor(a), b);
}
// Of the numbers' own dtype: bool, i64 or f32.
Tensor where(const Tensor& condition, Scalar a, Scalar b);
// What functors call it.
inline Tensor select(const Tensor& condition, const Tensor& a, const Tensor& b) {
  return where(condition, a, b);
}
inline Tensor select(bool condition, const Tensor& a, const Tensor& b) { return condition ? a : b; }

}  // namespace lockstep
