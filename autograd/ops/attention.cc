#include <array>
#include <cmath>
#include <limits>

#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/ops.h"
#include "lockstep/autograd/ops/add_recorded.h"
#include "lockstep/autograd/ops/check.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "lockstep/runtime/ops/rows.h"

namespace lockstep {
namespace {

constexpr double kHidden = -std::numeric_limits<double>::infinity();

// softmax(q kᵀ · scale + bias) v, the matrix of probabilities kept. bias may be empty.
Tensor attention_formula(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& bias,
                         const AttentionOptions& options, double p = 0) {
  Tensor scores = matmul(q, k.mT()) * options.scale;
  if (options.causal) {
    const Array all = Array::full({q.dim(-2), k.dim(-2)}, 1, DType::boolean, q.device());
    scores = masked_fill(scores, triu(Tensor(all), 1), kHidden);
  }
  Tensor blind;  // queries that see nothing
  if (bias) {
    scores = scores + bias;
    blind = amax(scores.detach(), {-1}, true) == Tensor(Scalar(kHidden));
    scores = masked_fill(scores, blind, 0.0);
  }
  Tensor probabilities = softmax(scores);
  if (blind) probabilities = masked_fill(probabilities, blind, 0.0);
  return matmul(dropout(probabilities, p), v);
}

// [batch, time, 3·width] as three [batch, heads, time, feature] windows.
std::array<Array, 3> unpack(const Array& qkv, int heads) {
  const int64_t feature = qkv.dim(2) / 3 / heads;
  const Array five = qkv.try_view({qkv.dim(0), qkv.dim(1), 3, heads, feature});
  const auto window = [&](int i) { return five.select(2, i).transpose(1, 2); };
  return {window(0), window(1), window(2)};
}

Tensor merge_heads(const Tensor& x) {
  return reshape(transpose(x, 1, 2), {x.dim(0), x.dim(2), x.dim(1) * x.dim(3)});
}

Tensor packed_formula(const Tensor& qkv, int heads, const AttentionOptions& options) {
  const Shape split{qkv.dim(0), qkv.dim(1), heads, qkv.dim(2) / 3 / heads};
  std::vector<Tensor> parts = chunk(qkv, 3, 2);
  for (Tensor& part : parts) part = transpose(reshape(part, split), 1, 2);
  return merge_heads(attention_formula(parts[0], parts[1], parts[2], {}, options));
}

// What the forward pass leaves for the backward one; `out` is the op's output.
class SavedAttention {
 public:
  explicit SavedAttention(const kernels::Attention& result)
      : out_(Tensor(result.out)), log_sum_exp_(result.log_sum_exp) {}

  kernels::Attention value() const { return {out_.value(), log_sum_exp_}; }

 private:
  Saved out_;
  Array log_sum_exp_;
};

// Over [batch, heads, time, feature]; the matrix of probabilities is never kept (Dao et al. 2022).
Tensor fused_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& bias,
                       const AttentionOptions& options) {
  const kernels::Attention result =
      kernels::attention(q.value(), k.value(), v.value(), options, bias.value());
  const SavedAttention saved(result);
  return record({"attention"}, result.out, {&q, &k, &v},
                [q = Saved(q), k = Saved(k), v = Saved(v), bias = Saved(bias), saved, options](
                    const Tensor& dy, Gradients& out) {
                  if (recording()) {
                    const Tensor added = bias ? *bias : Tensor();
                    return internal::add_recorded(out, {*q, *k, *v}, dy, [&](auto in) {
                      return attention_formula(in[0], in[1], in[2], added, options);
                    });
                  }
                  const auto like = [](const Saved& x) {
                    return Array::empty(x->shape(), x->dtype(), x->device());
                  };
                  const Array dq = like(q), dk = like(k), dv = like(v);
                  kernels::attention_backward(dy.value(), q.value(), k.value(), v.value(),
                                              saved.value(), options, bias.value_or_empty(), dq, dk,
                                              dv);
                  out.add(0, dq);
                  out.add(1, dk);
                  out.add(2, dv);
                });
}

// x with leading dimensions expanded to `leading`, which become two.
Tensor with_two_leading(const Tensor& x, const Shape& leading) {
  Shape wide = leading, four{1, leading.rank() > 0 ? leading.back() : 1};
  for (int i = 0; i + 1 < leading.rank(); ++i) four[0] *= leading[i];
  for (int i : {-2, -1}) {
    wide.append(x.dim(i));
    four.append(x.dim(i));
  }
  const Tensor expanded = x.shape() == wide ? x : expand(x, wide);
  return wide == four ? expanded : reshape(expanded, four);
}

Shape leading_of(const Tensor& x) {
  return Shape(std::span(x.shape().data(), static_cast<size_t>(x.rank() - 2)));
}

void check_arguments(const Tensor& q, const Tensor& k, const Tensor& v,
                     const AttentionArguments& arguments) {
  constexpr const char* kName = "scaled_dot_product_attention";
  for (const Tensor* x : {&q, &k, &v}) internal::check_floating(kName, *x);
  LOCKSTEP_CHECK(q.rank() >= 2 && k.rank() >= 2 && v.rank() >= 2 && q.dim(-1) == k.dim(-1) &&
                     k.dim(-2) == v.dim(-2),
                 kName, ": shapes ", q.shape(), ", ", k.shape(), ", ", v.shape(),
                 ", expected [..., queries, feature], [..., keys, feature], [..., keys, width]");
  LOCKSTEP_CHECK(q.dtype() == k.dtype() && q.dtype() == v.dtype(), kName, ": dtypes ", q.dtype(),
                 ", ", k.dtype(), ", ", v.dtype(), ", expected one");
  LOCKSTEP_CHECK(q.device() == k.device() && q.device() == v.device(), kName, ": devices ",
                 q.device().to_string(), ", ", k.device().to_string(), ", ", v.device().to_string(),
                 ", expected one");
  const Tensor& mask = arguments.mask;
  if (!mask) return;
  LOCKSTEP_CHECK(!arguments.causal, kName, ": a mask and causal, expected at most one of them");
  LOCKSTEP_CHECK(mask.dtype() == DType::boolean || is_floating(mask.dtype()), kName, ": a mask of ",
                 mask.dtype(), ", expected bool or a floating dtype");
  LOCKSTEP_CHECK(mask.device() == q.device(), kName, ": a mask on ", mask.device().to_string(),
                 " for queries on ", q.device().to_string());
}

// A mask in the form that is added to the scores.
Tensor bias_of(const Tensor& mask, DType dtype) {
  if (!mask || is_floating(mask.dtype())) return mask ? to(mask, dtype) : mask;
  return masked_fill(Tensor(Array::full(mask.shape(), kHidden, dtype, mask.device())), mask, 0.0);
}

// Several heads of q for each of k: the heads become two dimensions, k's one is repeated.
Tensor grouped_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                         AttentionArguments arguments) {
  LOCKSTEP_CHECK(q.rank() >= 3 && k.rank() >= 3 && v.rank() >= 3 && k.dim(-3) == v.dim(-3) &&
                     k.dim(-3) > 0 && q.dim(-3) % k.dim(-3) == 0,
                 "scaled_dot_product_attention: enable_gqa with shapes ", q.shape(), ", ",
                 k.shape(), ", ", v.shape(), ", expected heads of q that are a multiple of k's");
  const int64_t heads = k.dim(-3), group = q.dim(-3) / heads;
  const auto split = [&](const Tensor& x) {
    if (!x || x.rank() < 3) return x;
    if (x.dim(-3) == 1 && q.dim(-3) != 1) return unsqueeze(x, -3);
    Shape shape = x.shape();
    shape[x.rank() - 3] = heads;
    shape.insert(x.rank() - 2, group);
    return reshape(x, shape);
  };
  arguments.enable_gqa = false;
  arguments.mask = split(arguments.mask);
  const Tensor y =
      scaled_dot_product_attention(split(q), unsqueeze(k, -3), unsqueeze(v, -3), arguments);
  Shape shape = y.shape();
  shape.erase(y.rank() - 3);
  shape[y.rank() - 4] = q.dim(-3);
  return reshape(y, shape);
}

}  // namespace

Tensor scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                    const AttentionArguments& arguments) {
  constexpr const char* kName = "scaled_dot_product_attention";
  if (autocasts(kName, {&q, &k, &v})) {
    return scaled_dot_product_attention(autocast(kName, q), autocast(kName, k), autocast(kName, v),
                                        arguments);
  }
  check_arguments(q, k, v, arguments);
  if (arguments.enable_gqa) return grouped_attention(q, k, v, arguments);
  Shape leading = broadcast_shapes(kName, leading_of(q), leading_of(k));
  leading = broadcast_shapes(kName, leading, leading_of(v));
  const AttentionOptions options{
      arguments.causal, arguments.scale.value_or(1 / std::sqrt(static_cast<double>(q.dim(-1))))};
  Shape scores = leading;
  scores.append(q.dim(-2));
  scores.append(k.dim(-2));
  Tensor bias = bias_of(arguments.mask, q.dtype());
  if (bias) {
    LOCKSTEP_CHECK(broadcast_shapes(kName, bias.shape(), scores) == scores, kName,
                   ": a mask of shape ", bias.shape(), ", expected one that broadcasts to ",
                   scores);
    bias = with_two_leading(expand(bias, scores), leading);
  }
  const Tensor four[] = {with_two_leading(q, leading), with_two_leading(k, leading),
                         with_two_leading(v, leading)};
  const bool fused = (arguments.dropout == 0 && !records({&bias})) || k.dim(-2) == 0;
  const Tensor y =
      fused ? fused_attention(four[0], four[1], four[2], bias, options)
            : attention_formula(four[0], four[1], four[2], bias, options, arguments.dropout);
  Shape shape = scores;
  shape[shape.rank() - 1] = v.dim(-1);
  return y.shape() == shape ? y : reshape(y, shape);
}

Tensor packed_attention(const Tensor& qkv, int heads, bool causal) {
  if (autocasts("packed_attention", {&qkv})) {
    return packed_attention(autocast("packed_attention", qkv), heads, causal);
  }
  internal::check_floating("packed_attention", qkv);
  LOCKSTEP_CHECK(qkv.rank() == 3 && heads > 0 && qkv.dim(2) % (3 * heads) == 0,
                 "packed_attention: shape ", qkv.shape(), " with ", heads,
                 " heads, expected [batch, time, 3 x heads x feature]");
  const int64_t width = qkv.dim(2) / 3;
  const AttentionOptions options{
      causal, 1 / std::sqrt(static_cast<double>(width) / static_cast<double>(heads))};
  const Tensor dense = contiguous(qkv);
  const auto [q, k, v] = unpack(dense.value(), heads);
  const kernels::Attention result = kernels::attention(q, k, v, options);
  const SavedAttention saved(result);
  const Array merged = result.out.transpose(1, 2).try_view({qkv.dim(0), qkv.dim(1), width});
  return record(
      {"packed_attention"}, merged, {&dense},
      [qkv = Saved(dense), saved, heads, options](const Tensor& dy, Gradients& out) {
        if (recording()) {
          return internal::add_recorded(
              out, {*qkv}, dy, [&](auto in) { return packed_formula(in[0], heads, options); });
        }
        out.add(0, [&]() -> Tensor {
          const Shape& shape = qkv->shape();
          const Array dqkv = Array::empty(shape, dy.dtype(), dy.device());
          const auto [q, k, v] = unpack(qkv.value(), heads);
          const auto [dq, dk, dv] = unpack(dqkv, heads);
          const Array dout = kernels::contiguous(dy.value())
                                 .reshape({shape[0], shape[1], heads, q.dim(3)})
                                 .transpose(1, 2);
          kernels::attention_backward(dout, q, k, v, saved.value(), options, {}, dq, dk, dv);
          return dqkv;
        });
      });
}

}  // namespace lockstep
