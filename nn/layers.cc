#include "lockstep/nn/layers.h"

#include <cmath>

namespace lockstep::nn {

Linear::Linear(int64_t in, int64_t out, const Options& options) {
  const Initializer usual = Initializer::uniform(1 / std::sqrt(static_cast<double>(in)));
  weight = Parameter({out, in}, options.weight_initializer.value_or(usual));
  if (options.bias) bias = Parameter({out}, options.bias_initializer.value_or(usual));
}

Tensor Linear::forward(const Tensor& x) {
  return linear(x, weight, bias ? bias.tensor() : Tensor());
}

void Linear::visit(Visitor& v) {
  v("weight", weight);
  if (bias) v("bias", bias);
}

Embedding::Embedding(int64_t count, int64_t width, Initializer initializer)
    : weight({count, width}, initializer) {}

Tensor Embedding::forward(const Tensor& ids) { return embedding(weight, ids); }

void Embedding::visit(Visitor& v) { v("weight", weight); }

LayerNorm::LayerNorm(int64_t width, double epsilon)
    : weight({width}, Initializer::ones()), bias({width}, Initializer::zeros()), epsilon(epsilon) {}

Tensor LayerNorm::forward(const Tensor& x) { return layer_norm(x, weight, bias, epsilon); }

void LayerNorm::visit(Visitor& v) {
  v("weight", weight);
  v("bias", bias);
}

CausalSelfAttention::CausalSelfAttention(int64_t width, int heads, const Options& options)
    : c_attn(width, 3 * width,
             {.weight_initializer = options.weight_initializer,
              .bias_initializer = options.bias_initializer}),
      c_proj(width, width,
             {.weight_initializer = options.projection_initializer,
              .bias_initializer = options.bias_initializer}),
      dropout(options.dropout),
      heads(heads) {
  LOCKSTEP_CHECK(heads > 0 && width % heads == 0, "attention of width ", width, " with ", heads,
                 " heads: the width must be a multiple of the heads");
}

Tensor CausalSelfAttention::forward(const Tensor& x) {
  return dropout(c_proj(packed_attention(c_attn(x), heads)));
}

void CausalSelfAttention::visit(Visitor& v) {
  v("c_attn", c_attn);
  v("c_proj", c_proj);
  v("dropout", dropout);
}

}  // namespace lockstep::nn
