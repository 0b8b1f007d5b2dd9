#include "lockstep/runtime/ops/rows.h"

#include <cmath>
#include <numeric>

#include "lockstep/autograd/ops.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep {
namespace {

// The same values one node further from their history.
Tensor alias(const Tensor& x) {
  return record({"alias"}, x.value(), {&x},
                [](const Tensor& dy, Gradients& out) { out.add(0, dy); });
}

// Gradients of a fused op as recorded formulas: those of the plain formula it stands for. Taken
// with respect to aliases: an input may be computed from another, or be the same.
template <class F>
void add_recorded(Gradients& out, std::initializer_list<Tensor> inputs, const Tensor& dy,
                  const F& formula) {
  std::vector<Tensor> operands, wanted;
  for (const Tensor& input : inputs) {
    operands.push_back(input ? alias(input) : Tensor());
    if (input.requires_grad()) wanted.push_back(operands.back());
  }
  const Tensor y = formula(std::span<const Tensor>(operands));
  const std::vector<Tensor> gradients =
      grad({&y, 1}, wanted, {&dy, 1}, {.create_graph = true, .allow_unused = true});
  size_t next = 0;
  for (size_t i = 0; i < operands.size(); ++i) {
    if (operands[i].requires_grad()) out.add(static_cast<int>(i), gradients[next++]);
  }
}

Tensor softmax_backward(const Tensor& y, const Tensor& dy, bool log, Into into) {
  if (!recording()) return kernels::softmax_backward(y.value(), dy.value(), log, into);
  if (log) return dy - exp(y) * sum(dy, {-1}, true);
  return y * (dy - sum(y * dy, {-1}, true));
}

Tensor softmax_of(const char* name, const Tensor& x, bool log) {
  const Array y = kernels::softmax(x.value(), log);
  return record({name}, y, {&x}, [log, y = Saved(y)](const Tensor& dy, Gradients& out) {
    out.add(0, [&](Into into) { return softmax_backward(out.own(y), dy, log, into); });
  });
}

}  // namespace

Tensor softmax(const Tensor& x) { return softmax_of("softmax", x, false); }
Tensor log_softmax(const Tensor& x) { return softmax_of("log_softmax", x, true); }

namespace {

Tensor layer_norm_formula(const Tensor& x, const Tensor& weight, const Tensor& bias,
                          double epsilon) {
  const Tensor centered = x - mean(x, {-1}, true);
  Tensor y = centered * rsqrt(mean(square(centered), {-1}, true) + epsilon);
  if (weight) y = y * weight;
  if (bias) y = y + bias;
  return y;
}

}  // namespace

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double epsilon) {
  kernels::LayerNorm result = kernels::layer_norm(x.value(), weight.value(), bias.value(), epsilon);
  Array y = std::move(result.y);
  result.y = Array();
  return record({"layer_norm"}, std::move(y), {&x, &weight, &bias},
                [x = Saved(x), weight = Saved(weight), bias = Saved(bias),
                 result = std::move(result), epsilon](const Tensor& dy, Gradients& out) {
                  const Tensor w = weight ? *weight : Tensor(), b = bias ? *bias : Tensor();
                  if (recording()) {
                    return add_recorded(out, {*x, w, b}, dy, [&](auto in) {
                      return layer_norm_formula(in[0], in[1], in[2], epsilon);
                    });
                  }
                  kernels::LayerNormWanted wanted{out.needs(0), out.needs(1), out.needs(2),
                                                  out.offer(0), out.offer(1), out.offer(2)};
                  const kernels::LayerNormGradients gradients = kernels::layer_norm_backward(
                      dy.value(), x.value(), w.value(), result, wanted);
                  out.deliver(0, gradients.x, wanted.into_x);
                  out.deliver(1, gradients.weight, wanted.into_weight);
                  out.deliver(2, gradients.bias, wanted.into_bias);
                });
}

Tensor one_hot(const Tensor& ids, int64_t classes, DType dtype) {
  LOCKSTEP_CHECK(ids.dtype() == DType::i64, "one_hot: indices of ", ids.dtype(), ", expected i64");
  std::vector<int64_t> all(static_cast<size_t>(classes));
  std::iota(all.begin(), all.end(), 0);
  const Tensor hot = unsqueeze(ids, -1) == Tensor(Array::from(all, {classes}, ids.device()));
  return to(hot, dtype);
}

namespace {

// dtable[ids[i]] += dy[i]: linear in dy, so its own gradient is a look-up again.
Tensor embedding_backward(const Tensor& dy, const Tensor& ids, const Shape& table, Into into) {
  return record({"embedding_backward"},
                kernels::embedding_backward(dy.value(), ids.value(), table, into), {&dy},
                [ids = Saved(ids)](const Tensor& dtable, Gradients& out) {
                  out.add(0, [&] { return embedding(dtable, *ids); });
                });
}

}  // namespace

Tensor embedding(const Tensor& table, const Tensor& ids) {
  return record({"embedding"}, kernels::embedding(table.value(), ids.value()), {&table},
                [ids = Saved(ids), shape = table.shape()](const Tensor& dy, Gradients& out) {
                  out.add(0, [&](Into into) { return embedding_backward(dy, *ids, shape, into); });
                });
}

namespace {

// Loss of each row, and its gradient given that of each row's loss.
Tensor row_losses(const Tensor& logits, const Tensor& targets, int64_t ignore) {
  const kernels::CrossEntropy result =
      kernels::cross_entropy(logits.value(), targets.value(), ignore);
  return record(
      {"cross_entropy"}, result.loss, {&logits},
      [logits = Saved(logits), targets = Saved(targets), ignore, log_sum_exp = result.log_sum_exp](
          const Tensor& dloss, Gradients& out) {
        out.add(0, [&](Into into) -> Tensor {
          if (!recording()) {
            return kernels::cross_entropy_backward(logits.value(), targets.value(), ignore,
                                                   log_sum_exp, dloss.value(), into);
          }
          const DType dtype = logits->dtype();
          const Tensor counted = to(*targets != Tensor(static_cast<double>(ignore)), dtype);
          const Tensor error = softmax(*logits) - one_hot(*targets, logits->dim(-1), dtype);
          return error * unsqueeze(to(dloss, dtype) * counted, -1);
        });
      });
}

}  // namespace

Tensor cross_entropy(const Tensor& logits, const Tensor& targets, CrossEntropyOptions options) {
  const int64_t rows = targets.elements();
  LOCKSTEP_CHECK(logits.rank() >= 1 && logits.elements() == rows * logits.dim(-1),
                 "cross_entropy: logits of shape ", logits.shape(), " and targets of shape ",
                 targets.shape());
  const Tensor losses = row_losses(reshape(logits, {rows, logits.dim(-1)}),
                                   reshape(targets, {rows}), options.ignore_index);
  using Reduce = CrossEntropyOptions::Reduce;
  if (options.reduction == Reduce::none) return reshape(losses, targets.shape());
  if (options.reduction == Reduce::sum) return sum(losses);
  const Tensor counted = targets != Tensor(static_cast<double>(options.ignore_index));
  return sum(losses) / sum(to(counted, losses.dtype())).item();
}

namespace {

Tensor attention_formula(const Tensor& q, const Tensor& k, const Tensor& v,
                         AttentionOptions options) {
  Tensor scores = matmul(q, k.mT()) * options.scale;
  if (options.causal) {
    const int64_t queries = q.dim(2), keys = k.dim(2);
    std::vector<double> mask(static_cast<size_t>(queries * keys), 0.0);
    for (int64_t i = 0; i < queries; ++i) {
      for (int64_t j = i + keys - queries + 1; j < keys; ++j) mask[i * keys + j] = -1e30;
    }
    const Array hidden = Array::from(mask, {queries, keys}, q.device());
    scores = scores + Tensor(kernels::cast(hidden, q.dtype()));
  }
  return matmul(softmax(scores), v);
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

Tensor packed_formula(const Tensor& qkv, int heads, AttentionOptions options) {
  const Shape split{qkv.dim(0), qkv.dim(1), heads, qkv.dim(2) / 3 / heads};
  std::vector<Tensor> parts = chunk(qkv, 3, 2);
  for (Tensor& part : parts) part = transpose(reshape(part, split), 1, 2);
  return merge_heads(attention_formula(parts[0], parts[1], parts[2], options));
}

}  // namespace

Tensor scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                    AttentionOptions options) {
  LOCKSTEP_CHECK(q.rank() == 4, "attention: queries of shape ", q.shape(),
                 ", expected [batch, heads, time, feature]");
  if (options.scale == 0) options.scale = 1 / std::sqrt(static_cast<double>(q.dim(3)));
  const kernels::Attention result = kernels::attention(q.value(), k.value(), v.value(), options);
  return record({"attention"}, result.out, {&q, &k, &v},
                [q = Saved(q), k = Saved(k), v = Saved(v), result, options](const Tensor& dy,
                                                                            Gradients& out) {
                  if (recording()) {
                    return add_recorded(out, {*q, *k, *v}, dy, [&](auto in) {
                      return attention_formula(in[0], in[1], in[2], options);
                    });
                  }
                  const auto like = [](const Saved& x) {
                    return Array::empty(x->shape(), x->dtype(), x->device());
                  };
                  const Array dq = like(q), dk = like(k), dv = like(v);
                  kernels::attention_backward(dy.value(), q.value(), k.value(), v.value(), result,
                                              options, dq, dk, dv);
                  out.add(0, dq);
                  out.add(1, dk);
                  out.add(2, dv);
                });
}

Tensor packed_attention(const Tensor& qkv, int heads, bool causal) {
  LOCKSTEP_CHECK(qkv.rank() == 3 && heads > 0 && qkv.dim(2) % (3 * heads) == 0,
                 "packed_attention: shape ", qkv.shape(), " with ", heads,
                 " heads, expected [batch, time, 3 x heads x feature]");
  const int64_t width = qkv.dim(2) / 3;
  const AttentionOptions options{
      causal, 1 / std::sqrt(static_cast<double>(width) / static_cast<double>(heads))};
  const Tensor dense = contiguous(qkv);
  const auto [q, k, v] = unpack(dense.value(), heads);
  const kernels::Attention result = kernels::attention(q, k, v, options);
  const Array merged = result.out.transpose(1, 2).try_view({qkv.dim(0), qkv.dim(1), width});
  return record({"packed_attention"}, merged, {&dense},
                [qkv = Saved(dense), result, heads, options](const Tensor& dy, Gradients& out) {
                  if (recording()) {
                    return add_recorded(out, {*qkv}, dy, [&](auto in) {
                      return packed_formula(in[0], heads, options);
                    });
                  }
                  out.add(0, [&]() -> Tensor {
                    const Shape& shape = qkv->shape();
                    const Array dqkv = Array::empty(shape, dy.dtype(), dy.device());
                    const auto [q, k, v] = unpack(qkv.value(), heads);
                    const auto [dq, dk, dv] = unpack(dqkv, heads);
                    const Array dout = kernels::contiguous(dy.value())
                                           .reshape({shape[0], shape[1], heads, q.dim(3)})
                                           .transpose(1, 2);
                    kernels::attention_backward(dout, q, k, v, result, options, dq, dk, dv);
                    return dqkv;
                  });
                });
}

namespace {

Tensor dropout_with(const Tensor& x, double p, RandomKey key, Into into) {
  return record({"dropout"}, kernels::dropout(x.value(), p, key, into), {&x},
                [p, key](const Tensor& dy, Gradients& out) {
                  out.add(0, [&](Into into) { return dropout_with(dy, p, key, into); });
                });
}

}  // namespace

Tensor dropout(const Tensor& x, double p) {
  if (p == 0) return x;
  const RandomKey key = context().random;
  ++context().random.operation;
  return dropout_with(x, p, key, {});
}

}  // namespace lockstep
