#include "model.h"

#include <cmath>
#include <tuple>

namespace gpt {
namespace {

using namespace lockstep;
using nn::Initializer;

constexpr double kDeviation = 0.02;

// Projections into the residual stream start smaller, so that its variance does not grow with the
// number of layers.
double projection_deviation(const Config& config) {
  return kDeviation / std::sqrt(2.0 * static_cast<double>(config.layers));
}

nn::Linear linear_layer(int64_t in, int64_t out, double deviation) {
  return nn::Linear(in, out,
                    {.weight_initializer = Initializer::normal(deviation),
                     .bias_initializer = Initializer::zeros()});
}

}  // namespace

FeedForward::FeedForward(const Config& config)
    : c_fc(linear_layer(config.width, 4 * config.width, kDeviation)),
      c_proj(linear_layer(4 * config.width, config.width, projection_deviation(config))) {}

Tensor FeedForward::forward(const Tensor& x) {
  return feed_forward(x, c_fc.weight, c_fc.bias.tensor_or_empty(), c_proj.weight,
                      c_proj.bias.tensor_or_empty(), {.form = GeluForm::tanh});
}

void FeedForward::visit(nn::Visitor& v) {
  v("c_fc", c_fc);
  v("c_proj", c_proj);
}

Block::Block(const Config& config)
    : ln_1(config.width),
      attn(config.width, static_cast<int>(config.heads),
           {.weight_initializer = Initializer::normal(kDeviation),
            .projection_initializer = Initializer::normal(projection_deviation(config)),
            .bias_initializer = Initializer::zeros()}),
      ln_2(config.width),
      mlp(config) {}

std::pair<Tensor, Tensor> Block::forward(const Tensor& x, const Tensor& delta) {
  const AddLayerNorm before = ln_1.add(x, delta);
  const AddLayerNorm between = ln_2.add(before.sum, attn(before.normalized));
  return {between.sum, mlp(between.normalized)};
}

void Block::visit(nn::Visitor& v) {
  v("ln_1", ln_1);
  v("attn", attn);
  v("ln_2", ln_2);
  v("mlp", mlp);
}

Model::Model(const Config& config)
    : config(config),
      wte(config.vocabulary, config.width, {.weight_initializer = Initializer::normal(kDeviation)}),
      wpe(config.context, config.width, {.weight_initializer = Initializer::normal(kDeviation)}),
      ln_f(config.width) {
  for (int64_t i = 0; i < config.layers; ++i) h.emplace_back(config);
}

Tensor Model::forward(const Tensor& ids) {
  const int64_t time = ids.dim(1);
  LOCKSTEP_CHECK(time <= config.context, "gpt: ", time, " tokens, the context is ", config.context);
  Tensor x = wte(ids) + narrow(wpe.weight, 0, 0, time), delta;
  for (Block& block : h) {
    // A block that runs again keeps what it was given: better one tensor than two.
    if (delta && block.recomputes()) {
      x = x + delta;
      delta = {};
    }
    std::tie(x, delta) = block(x, delta);
  }
  return linear(ln_f.add(x, delta).normalized, wte.weight);
}

void Model::visit(nn::Visitor& v) {
  v("wte", wte);
  v("wpe", wpe);
  v("h", h);
  v("ln_f", ln_f);
}

}  // namespace gpt
