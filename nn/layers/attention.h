#pragma once

#include <optional>

#include "lockstep/nn/layers/basic.h"

namespace lockstep::nn {

// Multi-head self-attention in which a position sees itself and what is before it (Vaswani et al.
// 2017), with GPT-2's names: c_attn makes queries, keys and values, c_proj joins the heads.
struct CausalSelfAttention : Layer<CausalSelfAttention> {
  struct Options {
    double dropout = 0;  // of the output
    std::optional<Initializer> weight_initializer = {};
    std::optional<Initializer> projection_initializer = {};
    std::optional<Initializer> bias_initializer = {};
  };
  CausalSelfAttention(int64_t width, int heads) : CausalSelfAttention(width, heads, Options()) {}
  CausalSelfAttention(int64_t width, int heads, const Options& options);
  Tensor forward(const Tensor& x);  // [batch, time, width] -> the same
  void visit(Visitor& v) override;

  Linear c_attn;
  Linear c_proj;
  Dropout dropout;
  int heads;
};

// What MultiheadAttention's call takes beside query, key and value. A boolean mask is true where
// attention is forbidden; a floating one is added to the scores.
struct MultiheadAttentionArguments {
  Tensor key_padding_mask = {};  // [batch, keys], or [keys]
  Tensor attn_mask = {};         // [queries, keys] or [batch * heads, queries, keys]
  bool need_weights = true;
  bool average_attn_weights = true;  // over the heads
  bool is_causal = false;            // says that attn_mask is the causal one; needs it
};

// Vaswani et al. 2017, with PyTorch's names: in_proj_weight [3 width, width] (queries, keys,
// values), in_proj_bias, out_proj. Where kdim or vdim differ from the width: q_proj_weight,
// k_proj_weight [width, kdim], v_proj_weight [width, vdim] instead.
struct MultiheadAttention : Layer<MultiheadAttention> {
  struct Options {
    double dropout = 0;  // of the weights
    bool bias = true;
    std::optional<int64_t> kdim = {};
    std::optional<int64_t> vdim = {};
    bool batch_first = false;
  };
  using Arguments = MultiheadAttentionArguments;
  struct Output {
    Tensor output;
    Tensor weights;  // [batch, queries, keys]; [batch, heads, queries, keys] not averaged; or empty
  };
  MultiheadAttention(int64_t embed_dim, int64_t num_heads)
      : MultiheadAttention(embed_dim, num_heads, Options()) {}
  MultiheadAttention(int64_t embed_dim, int64_t num_heads, const Options& options);
  // [time, batch, width] each, [batch, time, width] with batch_first, or [time, width].
  Output forward(const Tensor& query, const Tensor& key, const Tensor& value,
                 const Arguments& arguments = {});
  // Spelled out so that arguments may stand in braces: attention(q, k, v, {.attn_mask = mask}).
  Output operator()(const Tensor& query, const Tensor& key, const Tensor& value,
                    const Arguments& arguments = {}) {
    return Layer::operator()(query, key, value, arguments);
  }
  void visit(Visitor& v) override;

  int64_t embed_dim, num_heads;
  Options options;
  Parameter in_proj_weight;                               // empty where the three are apart
  Parameter q_proj_weight, k_proj_weight, v_proj_weight;  // empty where they are one
  Parameter in_proj_bias;                                 // empty without
  Linear out_proj;

 private:
  struct Projected {
    Tensor query, key, value;  // [batch, heads, time, feature]
  };
  Projected project(const Tensor& query, const Tensor& key, const Tensor& value) const;
  Tensor mask_of(const Arguments& arguments, const Projected& in) const;
  Output attend(const Tensor& query, const Tensor& key, const Tensor& value,
                const Arguments& arguments);
};

}  // namespace lockstep::nn
