#pragma once

#include <optional>
#include <vector>

#include "lockstep/nn/layers/attention.h"
#include "lockstep/nn/layers/normalization.h"

namespace lockstep::nn {

// Masks as in MultiheadAttention.
struct TransformerArguments {
  Tensor mask = {};                  // [time, time] or [batch * heads, time, time]
  Tensor src_key_padding_mask = {};  // [batch, time]
  bool is_causal = false;
};

struct TransformerEncoderLayerOptions {
  enum class Activation { relu, gelu };
  int64_t dim_feedforward = 2048;
  double dropout = 0.1;
  Activation activation = Activation::relu;
  double layer_norm_eps = 1e-5;
  bool batch_first = false;
  bool norm_first = false;  // norms before each part, not after each sum
  bool bias = true;
};

// Self-attention, then two linear layers, each beside a residual path (Vaswani et al. 2017).
struct TransformerEncoderLayer : Layer<TransformerEncoderLayer> {
  using Options = TransformerEncoderLayerOptions;
  using Arguments = TransformerArguments;
  TransformerEncoderLayer(int64_t d_model, int64_t nhead, const Options& options = {});
  Tensor forward(const Tensor& src, const Arguments& arguments = {});
  Tensor operator()(const Tensor& src, const Arguments& arguments = {}) {
    return Layer::operator()(src, arguments);
  }
  void visit(Visitor& v) override;

  Options options;
  MultiheadAttention self_attn;
  Linear linear1;
  Dropout dropout;
  Linear linear2;
  LayerNorm norm1, norm2;
  Dropout dropout1, dropout2;

 private:
  Tensor attend(const Tensor& x, const Arguments& arguments);
  Tensor feed_forward(const Tensor& x);
};

// `num_layers` layers, each with initial values of its own, and a norm after the last if wanted.
struct TransformerEncoder : Layer<TransformerEncoder> {
  struct Options {
    TransformerEncoderLayerOptions layer = {};
    bool norm = false;
  };
  TransformerEncoder(int64_t d_model, int64_t nhead, int64_t num_layers)
      : TransformerEncoder(d_model, nhead, num_layers, Options()) {}
  TransformerEncoder(int64_t d_model, int64_t nhead, int64_t num_layers, const Options& options);
  Tensor forward(const Tensor& src, const TransformerArguments& arguments = {});
  Tensor operator()(const Tensor& src, const TransformerArguments& arguments = {}) {
    return Layer::operator()(src, arguments);
  }
  void visit(Visitor& v) override;

  std::vector<TransformerEncoderLayer> layers;
  std::optional<LayerNorm> norm;
};

}  // namespace lockstep::nn
