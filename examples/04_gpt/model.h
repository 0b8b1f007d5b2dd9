#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "lockstep/nn/layers.h"

namespace gpt {

using lockstep::Tensor;

struct Config {
  int64_t layers = 4;
  int64_t heads = 4;
  int64_t width = 128;
  int64_t context = 128;
  int64_t vocabulary = 256;

  bool operator==(const Config&) const = default;
};

struct FeedForward : lockstep::nn::Layer<FeedForward> {
  explicit FeedForward(const Config& config);
  Tensor forward(const Tensor& x);
  void visit(lockstep::nn::Visitor& v) override;

  lockstep::nn::Linear c_fc, c_proj;
};

// Each part's output is added to the residual stream by the norm that follows, in one op. So a
// block takes the stream x and what is still to be added to it, delta (empty before the first
// block), and returns such a pair.
struct Block : lockstep::nn::Layer<Block> {
  explicit Block(const Config& config);
  std::pair<Tensor, Tensor> forward(const Tensor& x, const Tensor& delta);
  void visit(lockstep::nn::Visitor& v) override;

  lockstep::nn::LayerNorm ln_1;
  lockstep::nn::CausalSelfAttention attn;
  lockstep::nn::LayerNorm ln_2;
  FeedForward mlp;
};

// GPT-2 (Radford et al. 2019): learned positions, norms before each part, tanh-GELU, the output
// layer tied to the token embedding. Parameters carry GPT-2's names.
struct Model : lockstep::nn::Layer<Model> {
  explicit Model(const Config& config);
  // ids [batch, time] i64, time at most the context -> logits [batch, time, vocabulary].
  Tensor forward(const Tensor& ids);
  void visit(lockstep::nn::Visitor& v) override;

  Config config;
  lockstep::nn::Embedding wte;
  lockstep::nn::Embedding wpe;
  std::vector<Block> h;
  lockstep::nn::LayerNorm ln_f;
};

}  // namespace gpt
