#include "conformance/modules.h"
#include "lockstep/nn/layers.h"

namespace lockstep::conformance {
namespace {

// One block of GPT-2, under its names.
struct Gpt2Block : nn::Layer<Gpt2Block> {
  struct Mlp : nn::Layer<Mlp> {
    explicit Mlp(int64_t width) : c_fc(width, 4 * width), c_proj(4 * width, width) {}
    Tensor forward(const Tensor& x) {
      return feed_forward(x, c_fc.weight, c_fc.bias, c_proj.weight, c_proj.bias,
                          {.form = GeluForm::tanh});
    }
    void visit(nn::Visitor& v) override {
      v("c_fc", c_fc);
      v("c_proj", c_proj);
    }
    nn::Linear c_fc, c_proj;
  };

  Gpt2Block(int64_t width, int heads, double epsilon)
      : ln_1(width, {.eps = epsilon}),
        attn(width, heads),
        ln_2(width, {.eps = epsilon}),
        mlp(width) {}
  Tensor forward(const Tensor& x) {
    const Tensor y = x + attn(ln_1(x));
    return y + mlp(ln_2(y));
  }
  void visit(nn::Visitor& v) override {
    v("ln_1", ln_1);
    v("attn", attn);
    v("ln_2", ln_2);
    v("mlp", mlp);
  }

  nn::LayerNorm ln_1;
  nn::CausalSelfAttention attn;
  nn::LayerNorm ln_2;
  Mlp mlp;
};

BuiltModule gpt2_block(const Arguments& a) {
  const auto module = std::make_shared<Gpt2Block>(a.integer("n_embd"), a.dim("n_head"),
                                                  a.number("layer_norm_epsilon"));
  return {module,
          on_input([module](const Tensor& x) { return (*module)(x); }),
          {"attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"}};
}

bool flag(const Arguments& a, const char* name, bool otherwise) {
  return a.has(name) ? a.boolean(name) : otherwise;
}

BuiltModule multihead_attention(const Arguments& a) {
  const auto module = std::make_shared<nn::MultiheadAttention>(
      a.integer("embed_dim"), a.integer("num_heads"),
      nn::MultiheadAttention::Options{.dropout = a.number("dropout"),
                                      .bias = a.boolean("bias"),
                                      .batch_first = a.boolean("batch_first")});
  return {module, [module](const Arguments& c) -> std::vector<Tensor> {
            const auto [output, weights] =
                (*module)(c.tensor("query"), c.tensor("key"), c.tensor("value"),
                          nn::MultiheadAttentionArguments{
                              .key_padding_mask = c.optional_tensor("key_padding_mask"),
                              .attn_mask = c.optional_tensor("attn_mask"),
                              .need_weights = flag(c, "need_weights", true),
                              .average_attn_weights = flag(c, "average_attn_weights", true),
                              .is_causal = flag(c, "is_causal", false)});
            if (!weights) return {output};
            return {output, weights};
          }};
}

BuiltModule transformer_encoder_layer(const Arguments& a) {
  using Activation = nn::TransformerEncoderLayerOptions::Activation;
  const std::string activation = a.string("activation");
  LOCKSTEP_CHECK(activation == "relu" || activation == "gelu", "'activation' is '", activation,
                 "'");
  const auto module = std::make_shared<nn::TransformerEncoderLayer>(
      a.integer("d_model"), a.integer("nhead"),
      nn::TransformerEncoderLayerOptions{
          .dim_feedforward = a.integer("dim_feedforward"),
          .dropout = a.number("dropout"),
          .activation = activation == "relu" ? Activation::relu : Activation::gelu,
          .layer_norm_eps = a.number("layer_norm_eps"),
          .batch_first = a.boolean("batch_first"),
          .norm_first = a.boolean("norm_first"),
          .bias = a.boolean("bias")});
  return {module, [module](const Arguments& c) -> std::vector<Tensor> {
            return {(*module)(c.tensor("src"),
                              nn::TransformerArguments{
                                  .mask = c.optional_tensor("src_mask"),
                                  .src_key_padding_mask = c.optional_tensor("src_key_padding_mask"),
                                  .is_causal = flag(c, "is_causal", false)})};
          }};
}

}  // namespace

std::optional<BuiltModule> build_attention(const std::string& name, const Arguments& attributes) {
  if (name == "GPT2Block") return gpt2_block(attributes);
  if (name == "MultiheadAttention") return multihead_attention(attributes);
  if (name == "TransformerEncoderLayer") return transformer_encoder_layer(attributes);
  return std::nullopt;
}

}  // namespace lockstep::conformance
