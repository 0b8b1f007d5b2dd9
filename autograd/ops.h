#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "lockstep/autograd/tensor.h"
#include "lockstep/runtime/kernels.h"
#include "lockstep/runtime/math/binary.h"
#include "lockstep/runtime/math/compare.h"
#include "lockstep/runtime/math/unary.h"

// The ops users call, under PyTorch's names. All check shapes and dtypes and throw Error naming the
// op. Every one can be differentiated any number of times unless its comment says otherwise.
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
}  // namespace internal

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
inline Tensor square(const Tensor& x) { return internal::unary<math::Square>(x); }
inline Tensor sin(const Tensor& x) { return internal::unary<math::Sin>(x); }
inline Tensor cos(const Tensor& x) { return internal::unary<math::Cos>(x); }
inline Tensor tan(const Tensor& x) { return internal::unary<math::Tan>(x); }
inline Tensor tanh(const Tensor& x) { return internal::unary<math::Tanh>(x); }
inline Tensor sinh(const Tensor& x) { return internal::unary<math::Sinh>(x); }
inline Tensor cosh(const Tensor& x) { return internal::unary<math::Cosh>(x); }
inline Tensor erf(const Tensor& x) { return internal::unary<math::Erf>(x); }
inline Tensor sigmoid(const Tensor& x) { return internal::unary<math::Sigmoid>(x); }
inline Tensor relu(const Tensor& x) { return internal::unary<math::Relu>(x); }
inline Tensor silu(const Tensor& x) { return internal::unary<math::Silu>(x); }
inline Tensor softplus(const Tensor& x) { return internal::unary<math::Softplus>(x); }
inline Tensor floor(const Tensor& x) { return internal::unary<math::Floor>(x); }
inline Tensor ceil(const Tensor& x) { return internal::unary<math::Ceil>(x); }
inline Tensor round(const Tensor& x) { return internal::unary<math::Round>(x); }
inline Tensor leaky_relu(const Tensor& x, double slope = 0.01) {
  return internal::unary<math::LeakyRelu>(x, {slope});
}
inline Tensor clamp(const Tensor& x, double low, double high) {
  return internal::unary<math::Clamp>(x, {low, high});
}
enum class GeluForm { erf, tanh };
inline Tensor gelu(const Tensor& x, GeluForm form = GeluForm::erf) {
  return form == GeluForm::erf ? internal::unary<math::Gelu>(x)
                               : internal::unary<math::GeluTanh>(x);
}

// Elementwise, two operands; shapes broadcast. Both of one dtype, or one a weak scalar.
inline Tensor add(const Tensor& a, const Tensor& b) { return internal::binary<math::Add>(a, b); }
inline Tensor sub(const Tensor& a, const Tensor& b) { return internal::binary<math::Sub>(a, b); }
inline Tensor mul(const Tensor& a, const Tensor& b) { return internal::binary<math::Mul>(a, b); }
inline Tensor div(const Tensor& a, const Tensor& b) { return internal::binary<math::Div>(a, b); }
inline Tensor pow(const Tensor& a, const Tensor& b) { return internal::binary<math::Pow>(a, b); }
inline Tensor pow(const Tensor& a, double exponent) {
  return internal::unary<math::PowScalar>(a, {exponent});
}
inline Tensor maximum(const Tensor& a, const Tensor& b) {
  return internal::binary<math::Maximum>(a, b);
}
inline Tensor minimum(const Tensor& a, const Tensor& b) {
  return internal::binary<math::Minimum>(a, b);
}
inline Tensor atan2(const Tensor& a, const Tensor& b) {
  return internal::binary<math::Atan2>(a, b);
}

inline Tensor operator+(const Tensor& a, const Tensor& b) { return add(a, b); }
inline Tensor operator-(const Tensor& a, const Tensor& b) { return sub(a, b); }
inline Tensor operator*(const Tensor& a, const Tensor& b) { return mul(a, b); }
inline Tensor operator/(const Tensor& a, const Tensor& b) { return div(a, b); }
inline Tensor operator-(const Tensor& x) { return neg(x); }
inline Tensor operator+(const Tensor& a, double b) {
  return internal::unary<math::AddScalar>(a, {b});
}
inline Tensor operator+(double a, const Tensor& b) { return b + a; }
inline Tensor operator-(const Tensor& a, double b) { return a + -b; }
inline Tensor operator-(double a, const Tensor& b) { return sub(Tensor(a), b); }
inline Tensor operator*(const Tensor& a, double b) {
  return internal::unary<math::MulScalar>(a, {b});
}
inline Tensor operator*(double a, const Tensor& b) { return b * a; }
inline Tensor operator/(const Tensor& a, double b) { return div(a, Tensor(b)); }
inline Tensor operator/(double a, const Tensor& b) { return div(Tensor(a), b); }

// bool tensors, without a gradient.
inline Tensor operator==(const Tensor& a, const Tensor& b) {
  return internal::compare<math::Eq>(a, b);
}
inline Tensor operator!=(const Tensor& a, const Tensor& b) {
  return internal::compare<math::Ne>(a, b);
}
inline Tensor operator<(const Tensor& a, const Tensor& b) {
  return internal::compare<math::Lt>(a, b);
}
inline Tensor operator<=(const Tensor& a, const Tensor& b) {
  return internal::compare<math::Le>(a, b);
}
inline Tensor operator>(const Tensor& a, const Tensor& b) {
  return internal::compare<math::Gt>(a, b);
}
inline Tensor operator>=(const Tensor& a, const Tensor& b) {
  return internal::compare<math::Ge>(a, b);
}
// Both bool.
Tensor operator&(const Tensor& a, const Tensor& b);

// condition ? a : b. Both branches are evaluated and differentiated: a branch that is not chosen
// must still be finite, or its NaN survives the multiplication by zero.
Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b);
inline Tensor select(const Tensor& condition, const Tensor& a, const Tensor& b) {
  return where(condition, a, b);
}
inline Tensor select(bool condition, const Tensor& a, const Tensor& b) { return condition ? a : b; }

Tensor to(const Tensor& x, DType dtype);

// Reductions over `dims`, or all when empty.
Tensor sum(const Tensor& x, std::vector<int> dims = {}, bool keepdim = false);
Tensor mean(const Tensor& x, std::vector<int> dims = {}, bool keepdim = false);
// Over the dimensions in which `shape` broadcasts to x's shape.
Tensor sum_to(const Tensor& x, const Shape& shape);

// Windows on the same values where strides allow it.
Tensor reshape(const Tensor& x, const Shape& shape);
Tensor permute(const Tensor& x, std::vector<int> order);
Tensor transpose(const Tensor& x, int a, int b);
Tensor unsqueeze(const Tensor& x, int dim);
Tensor squeeze(const Tensor& x, int dim);
Tensor expand(const Tensor& x, const Shape& shape);
Tensor narrow(const Tensor& x, int dim, int64_t start, int64_t length);
// Row-major in memory; x itself where it is.
Tensor contiguous(const Tensor& x);
// Equal parts along `dim`; one op with `count` outputs.
std::vector<Tensor> chunk(const Tensor& x, int count, int dim);

// [..., m, k] @ [..., k, n]; leading dimensions broadcast; vectors as in PyTorch.
Tensor matmul(const Tensor& a, const Tensor& b);
// x [..., in], weight [out, in], bias [out] or empty -> [..., out].
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {});

// Over the last dimension.
Tensor softmax(const Tensor& x);
Tensor log_softmax(const Tensor& x);
Tensor layer_norm(const Tensor& x, const Tensor& weight = {}, const Tensor& bias = {},
                  double epsilon = 1e-5);

// [ids…, classes] of `dtype`.
Tensor one_hot(const Tensor& ids, int64_t classes, DType dtype = DType::i64);
// table [count, width], ids of any shape -> [ids…, width].
Tensor embedding(const Tensor& table, const Tensor& ids);

struct CrossEntropyOptions {
  int64_t ignore_index = -100;
  enum class Reduce { mean, sum, none } reduction = Reduce::mean;  // mean: over rows not ignored
};
// logits [..., classes], targets [...] i64. Differentiable in the logits.
Tensor cross_entropy(const Tensor& logits, const Tensor& targets, CrossEntropyOptions options = {});

// softmax(q kᵀ · scale) v over [batch, heads, time, feature], never keeping the [time, time]
// matrix (Dao et al. 2022). scale 0: 1/sqrt(feature).
Tensor scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                    AttentionOptions options = {.causal = false, .scale = 0});
// qkv [batch, time, 3·width], the three side by side, each of `heads` heads -> [batch, time,
// width].
Tensor packed_attention(const Tensor& qkv, int heads, bool causal = true);

// Zeroes elements with probability p and scales the rest by 1/(1-p). The mask is a function of the
// context's random key (seed, step, op) and the global index of each sample of dimension 0.
Tensor dropout(const Tensor& x, double p);

}  // namespace lockstep
