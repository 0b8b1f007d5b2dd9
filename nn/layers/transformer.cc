#include "lockstep/nn/layers/transformer.h"

#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/ops/linear_algebra.h"

namespace lockstep::nn {

TransformerEncoderLayer::TransformerEncoderLayer(int64_t d_model, int64_t nhead,
                                                 const Options& options)
    : options(options),
      self_attn(
          d_model, nhead,
          {.dropout = options.dropout, .bias = options.bias, .batch_first = options.batch_first}),
      linear1(d_model, options.dim_feedforward, {.bias = options.bias}),
      dropout(options.dropout),
      linear2(options.dim_feedforward, d_model, {.bias = options.bias}),
      norm1(d_model, {.eps = options.layer_norm_eps, .bias = options.bias}),
      norm2(d_model, {.eps = options.layer_norm_eps, .bias = options.bias}),
      dropout1(options.dropout),
      dropout2(options.dropout) {}

Tensor TransformerEncoderLayer::attend(const Tensor& x, const Arguments& arguments) {
  return dropout1(
      self_attn(x, x, x,
                MultiheadAttentionArguments{.key_padding_mask = arguments.src_key_padding_mask,
                                            .attn_mask = arguments.mask,
                                            .need_weights = false,
                                            .is_causal = arguments.is_causal})
          .output);
}

Tensor TransformerEncoderLayer::feed_forward(const Tensor& x) {
  const bool with_gelu = options.activation == Options::Activation::gelu;
  if (with_gelu && (!dropout.training() || dropout.p == 0)) {
    return dropout2(lockstep::feed_forward(x, linear1.weight, linear1.bias.tensor_or_empty(),
                                           linear2.weight, linear2.bias.tensor_or_empty()));
  }
  const Tensor hidden = with_gelu ? gelu(linear1(x)) : linear1(x, Activation::relu);
  return dropout2(linear2(dropout(hidden)));
}

Tensor TransformerEncoderLayer::forward(const Tensor& src, const Arguments& arguments) {
  if (options.norm_first) {
    const Tensor attended = attend(norm1.add(src, {}).normalized, arguments);
    const AddLayerNorm x = norm2.add(src, attended);
    return x.sum + feed_forward(x.normalized);
  }
  const Tensor x = norm1.of_sum(src, attend(src, arguments));
  return norm2.of_sum(x, feed_forward(x));
}

void TransformerEncoderLayer::visit(Visitor& v) {
  v("self_attn", self_attn);
  v("linear1", linear1);
  v("dropout", dropout);
  v("linear2", linear2);
  v("norm1", norm1);
  v("norm2", norm2);
  v("dropout1", dropout1);
  v("dropout2", dropout2);
}

TransformerEncoder::TransformerEncoder(int64_t d_model, int64_t nhead, int64_t num_layers,
                                       const Options& options) {
  for (int64_t i = 0; i < num_layers; ++i) layers.emplace_back(d_model, nhead, options.layer);
  if (!options.norm) return;
  norm.emplace(d_model,
               LayerNorm::Options{.eps = options.layer.layer_norm_eps, .bias = options.layer.bias});
}

Tensor TransformerEncoder::forward(const Tensor& src, const TransformerArguments& arguments) {
  Tensor x = src;
  for (TransformerEncoderLayer& layer : layers) x = layer(x, arguments);
  return norm ? (*norm)(x) : x;
}

void TransformerEncoder::visit(Visitor& v) {
  v("layers", layers);
  v("norm", norm);
}

}  // namespace lockstep::nn
