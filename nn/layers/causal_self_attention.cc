#include "lockstep/autograd/ops/attention.h"
#include "lockstep/nn/layers/attention.h"

namespace lockstep::nn {

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
