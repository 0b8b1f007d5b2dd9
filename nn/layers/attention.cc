#include "lockstep/nn/layers/attention.h"

#include <cmath>

#include "lockstep/autograd/ops.h"
#include "lockstep/autograd/scalar.h"
#include "lockstep/nn/init.h"

namespace lockstep::nn {
namespace {

// One value with one history: self-attention gives it thrice.
bool same(const Tensor& a, const Tensor& b) {
  return a.node() == b.node() && a.output() == b.output() && a.value().same_window(b.value());
}

// [batch, time, heads * feature] -> [batch, heads, time, feature]
Tensor split_heads(const Tensor& x, int64_t heads) {
  return transpose(reshape(x, {x.dim(0), x.dim(1), heads, x.dim(2) / heads}), 1, 2);
}

// The scores' summand that a mask stands for.
Tensor additive(const char* name, const Tensor& mask, DType dtype) {
  if (is_floating(mask.dtype())) return to(mask, dtype);
  LOCKSTEP_CHECK(mask.dtype() == DType::boolean, "MultiheadAttention: ", name, " is ", mask.dtype(),
                 ", expected bool or floating");
  const Array zeros = Array::zeros(mask.shape(), dtype, mask.device());
  return masked_fill(Tensor(zeros), mask, -INFINITY);
}

}  // namespace

MultiheadAttention::MultiheadAttention(int64_t embed_dim, int64_t num_heads, const Options& options)
    : embed_dim(embed_dim),
      num_heads(num_heads),
      options(options),
      out_proj(embed_dim, embed_dim,
               {.bias = options.bias, .bias_initializer = Initializer::zeros()}) {
  LOCKSTEP_CHECK(embed_dim > 0 && num_heads > 0 && embed_dim % num_heads == 0,
                 "MultiheadAttention: width ", embed_dim, " with ", num_heads,
                 " heads: the width must be a multiple of the heads");
  const Initializer xavier = init::xavier_uniform();
  const int64_t kdim = options.kdim.value_or(embed_dim), vdim = options.vdim.value_or(embed_dim);
  if (kdim == embed_dim && vdim == embed_dim) {
    in_proj_weight = Parameter({3 * embed_dim, embed_dim}, xavier);
  } else {
    q_proj_weight = Parameter({embed_dim, embed_dim}, xavier);
    k_proj_weight = Parameter({embed_dim, kdim}, xavier);
    v_proj_weight = Parameter({embed_dim, vdim}, xavier);
  }
  if (options.bias) in_proj_bias = Parameter({3 * embed_dim}, Initializer::zeros());
}

void MultiheadAttention::visit(Visitor& v) {
  v("in_proj_weight", in_proj_weight);
  v("q_proj_weight", q_proj_weight);
  v("k_proj_weight", k_proj_weight);
  v("v_proj_weight", v_proj_weight);
  v("in_proj_bias", in_proj_bias);
  v("out_proj", out_proj);
}

MultiheadAttention::Projected MultiheadAttention::project(const Tensor& query, const Tensor& key,
                                                          const Tensor& value) const {
  std::vector<Tensor> parts;
  if (in_proj_weight && same(query, key) && same(query, value)) {  // one product for all three
    parts = chunk(linear(query, in_proj_weight, in_proj_bias.tensor_or_empty()), 3, -1);
  } else {
    const std::vector<Tensor> weights =
        in_proj_weight ? chunk(in_proj_weight, 3, 0)
                       : std::vector<Tensor>{q_proj_weight, k_proj_weight, v_proj_weight};
    const std::vector<Tensor> biases =
        in_proj_bias ? chunk(in_proj_bias, 3, 0) : std::vector<Tensor>(3);
    parts = {linear(query, weights[0], biases[0]), linear(key, weights[1], biases[1]),
             linear(value, weights[2], biases[2])};
  }
  return {split_heads(parts[0], num_heads), split_heads(parts[1], num_heads),
          split_heads(parts[2], num_heads)};
}

// What is added to the scores, broadcastable to [batch, heads, queries, keys]; empty for nothing.
Tensor MultiheadAttention::mask_of(const Arguments& arguments, const Projected& in) const {
  const int64_t batch = in.query.dim(0), queries = in.query.dim(2), keys = in.key.dim(2);
  Tensor mask;
  if (arguments.attn_mask) {
    const Shape& shape = arguments.attn_mask.shape();
    const bool whole = shape == Shape{batch * num_heads, queries, keys};
    LOCKSTEP_CHECK(whole || shape == (Shape{queries, keys}),
                   "MultiheadAttention: attn_mask of shape ", shape, ", expected [", queries, ", ",
                   keys, "] or [", batch * num_heads, ", ", queries, ", ", keys, "]");
    mask = additive("attn_mask", arguments.attn_mask, in.query.dtype());
    if (whole) mask = reshape(mask, {batch, num_heads, queries, keys});
  }
  if (arguments.key_padding_mask) {
    LOCKSTEP_CHECK(arguments.key_padding_mask.shape() == (Shape{batch, keys}),
                   "MultiheadAttention: key_padding_mask of shape ",
                   arguments.key_padding_mask.shape(), ", expected [", batch, ", ", keys, "]");
    const Tensor padding =
        reshape(additive("key_padding_mask", arguments.key_padding_mask, in.query.dtype()),
                {batch, 1, 1, keys});
    mask = mask ? mask + padding : padding;
  }
  return mask;
}

// [batch, time, width] each.
MultiheadAttention::Output MultiheadAttention::attend(const Tensor& query, const Tensor& key,
                                                      const Tensor& value,
                                                      const Arguments& arguments) {
  const Projected in = project(query, key, value);
  const double dropped = training() ? options.dropout : 0;
  const bool causal = arguments.is_causal && !arguments.key_padding_mask && !arguments.need_weights;
  const Tensor mask = causal ? Tensor() : mask_of(arguments, in);
  Tensor heads, weights;
  if (arguments.need_weights) {
    const double scale = 1 / std::sqrt(static_cast<double>(embed_dim / num_heads));
    Tensor scores = matmul(in.query * scale, in.key.mT());
    if (mask) scores = scores + mask;
    weights = lockstep::dropout(softmax(scores, -1), dropped);
    heads = matmul(weights, in.value);
    if (arguments.average_attn_weights) weights = mean(weights, {1});
  } else {
    heads = scaled_dot_product_attention(in.query, in.key, in.value,
                                         {.mask = mask, .dropout = dropped, .causal = causal});
  }
  const Tensor joined = reshape(transpose(heads, 1, 2), {query.dim(0), query.dim(1), embed_dim});
  return {out_proj(joined), weights};
}

MultiheadAttention::Output MultiheadAttention::forward(const Tensor& query, const Tensor& key,
                                                       const Tensor& value,
                                                       const Arguments& given) {
  const int rank = query.rank();
  LOCKSTEP_CHECK(query && key && value && (rank == 2 || rank == 3) && key.rank() == rank &&
                     value.rank() == rank,
                 "MultiheadAttention: query, key and value of shapes ", query.shape(), ", ",
                 key.shape(), " and ", value.shape(), ", expected all rank 3, or 2 without batch");
  LOCKSTEP_CHECK(!given.is_causal || given.attn_mask,
                 "MultiheadAttention: is_causal says what attn_mask is, which "
                 "is not given");
  const auto batch_first = [&](const Tensor& x) {
    return rank == 2 ? unsqueeze(x, 0) : options.batch_first ? x : transpose(x, 0, 1);
  };
  const Tensor q = batch_first(query);
  const Tensor k = same(query, key) ? q : batch_first(key);
  const Tensor v = same(query, value) ? q : batch_first(value);
  LOCKSTEP_CHECK(
      q.dim(2) == embed_dim && k.dim(0) == q.dim(0) && v.dim(0) == q.dim(0) && v.dim(1) == k.dim(1),
      "MultiheadAttention: query, key and value of shapes ", query.shape(), ", ", key.shape(),
      " and ", value.shape(), ", expected width ", embed_dim,
      ", one batch, and as many values as keys");
  Arguments arguments = given;
  if (rank == 2 && given.key_padding_mask) {
    arguments.key_padding_mask = unsqueeze(given.key_padding_mask, 0);
  }
  Output result = attend(q, k, v, arguments);
  if (rank == 2) {
    result.output = squeeze(result.output, 0);
    if (result.weights) result.weights = squeeze(result.weights, 0);
  } else if (!options.batch_first) {
    result.output = transpose(result.output, 0, 1);
  }
  return result;
}

}  // namespace lockstep::nn
