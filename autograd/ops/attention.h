#pragma once

#include <optional>

#include "lockstep/autograd/tensor.h"

namespace lockstep {

struct AttentionArguments {
  // Broadcasts to [..., queries, keys]. bool: true where attention is allowed. Floating: added to
  // the scores, with a gradient.
  Tensor mask = {};
  double dropout = 0;  // of the probabilities
  // Query i sees keys 0 … i, whatever the two lengths. Not together with a mask.
  bool causal = false;
  std::optional<double> scale = {};  // 1 / sqrt(feature) unless given
  // Each head (dimension -3) of k and v serves as many consecutive heads of q as there are to one.
  bool enable_gqa = false;
};
// softmax(q k^T * scale + mask) v. q [..., queries, feature], k [..., keys, feature], v [..., keys,
// width] -> [..., queries, width]; leading dimensions broadcast. A query that sees no key gets
// zeros.
Tensor scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                    const AttentionArguments& arguments = {});
// qkv [batch, time, 3·width], q, k and v one after the other, each [heads, feature]: -> [batch,
// time, width]. Transformers' self-attention without copies between the layouts.
Tensor packed_attention(const Tensor& qkv, int heads, bool causal = true);

}  // namespace lockstep
