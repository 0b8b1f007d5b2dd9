#include "lockstep/nn/layers/transformer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "lockstep/autograd/autocast.h"
#include "lockstep/nn/layers.h"
#include "support/gradient_check.h"

namespace lockstep::nn {
namespace {

Tensor random_tensor(const Shape& shape, uint64_t seed) {
  return Tensor(testing::random_array(shape, seed));
}

void expect_near(const Tensor& a, const Tensor& b, double tolerance = 1e-12) {
  ASSERT_EQ(a.shape(), b.shape());
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  for (size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(x[i], y[i], tolerance) << "element " << i;
}

constexpr int64_t kWidth = 6, kBatch = 2, kTime = 4;

MultiheadAttention attention(MultiheadAttention::Options options = {.batch_first = true}) {
  MultiheadAttention result(kWidth, 3, options);
  result.place({.dtype = DType::f64, .seed = 1});
  init::apply(init::normal(), result.in_proj_bias, "in_proj_bias", 2);
  return result;
}

// true where i < j.
Tensor later() {
  const Array mask = Array::zeros({kTime, kTime}, DType::boolean);
  for (int64_t i = 0; i < kTime; ++i) {
    for (int64_t j = i + 1; j < kTime; ++j) mask.data<bool>()[i * kTime + j] = true;
  }
  return Tensor(mask);
}

TEST(MultiheadAttention, WithAndWithoutWeightsAgree) {
  MultiheadAttention layer = attention();
  const Tensor q = random_tensor({kBatch, 3, kWidth}, 1),
               k = random_tensor({kBatch, kTime, kWidth}, 2);
  const Tensor v = random_tensor({kBatch, kTime, kWidth}, 3);
  const Tensor padding(
      Array::from<bool>({false, false, true, false, true, false, false, false}, {kBatch, kTime}));
  const Tensor bias = random_tensor({3, kTime}, 4);
  const auto with =
      layer(q, k, v, MultiheadAttentionArguments{.key_padding_mask = padding, .attn_mask = bias});
  const auto without =
      layer(q, k, v,
            MultiheadAttentionArguments{
                .key_padding_mask = padding, .attn_mask = bias, .need_weights = false});
  expect_near(with.output, without.output);
  EXPECT_FALSE(without.weights);
  EXPECT_EQ(with.weights.shape(), (Shape{kBatch, 3, kTime}));
  expect_near(sum(with.weights, {2}), Tensor(Array::full({kBatch, 3}, 1, DType::f64)));
  const auto weights = with.weights.to_vector<double>();
  EXPECT_EQ(weights[2], 0);  // forbidden by the padding
  EXPECT_GT(weights[1], 0);
  const auto each = layer(q, k, v, MultiheadAttentionArguments{.average_attn_weights = false});
  EXPECT_EQ(each.weights.shape(), (Shape{kBatch, 3, 3, kTime}));
}

TEST(MultiheadAttention, TheCausalHintIsItsMask) {
  MultiheadAttention layer = attention();
  const Tensor x = random_tensor({kBatch, kTime, kWidth}, 1);
  const auto run = [&](MultiheadAttentionArguments arguments) {
    return layer(x, x, x, arguments).output;
  };
  const Tensor expected = run({.attn_mask = later()});
  expect_near(run({.attn_mask = later(), .need_weights = false, .is_causal = true}), expected);
  expect_near(run({.attn_mask = later(), .is_causal = true}), expected);
  const Tensor padding(Array::zeros({kBatch, kTime}, DType::boolean));
  expect_near(run({.key_padding_mask = padding,
                   .attn_mask = later(),
                   .need_weights = false,
                   .is_causal = true}),
              expected);
  EXPECT_THROW(run({.is_causal = true}), Error);
  EXPECT_THROW(run({.attn_mask = random_tensor({kTime, 3}, 1)}), Error);
  EXPECT_THROW(run({.key_padding_mask = padding,
                    .attn_mask = Tensor(Array::zeros({kTime, kTime}, DType::i64))}),
               Error);
}

TEST(MultiheadAttention, LayoutsAndSelfAttentionAreTheSameNumbers) {
  MultiheadAttention first = attention(), plain = attention({});
  const Tensor x = random_tensor({kBatch, kTime, kWidth}, 1);
  const Tensor expected = first(x, x, x).output;
  const Tensor turned = transpose(x, 0, 1);
  expect_near(transpose(plain(turned, turned, turned).output, 0, 1), expected);
  const Tensor copy(kernels::copy(x.value()));  // not the same tensor: three products, not one
  expect_near(first(x, copy, copy).output, expected);
  const Tensor one = select(x, 0, 1);
  const auto unbatched = first(one, one, one);
  expect_near(unbatched.output, select(expected, 0, 1));
  EXPECT_EQ(unbatched.weights.shape(), (Shape{kTime, kTime}));
  EXPECT_THROW(first(one, x, x), Error);
  EXPECT_THROW(first(x, narrow(x, 0, 0, 1), x), Error);
  EXPECT_THROW(MultiheadAttention(6, 4), Error);
}

// What a caller writes: the call has to see through the braces.
TEST(MultiheadAttention, ArgumentsMayStandInBraces) {
  MultiheadAttention module = attention();
  const Tensor x = random_tensor({kBatch, kTime, kWidth}, 1);
  EXPECT_FALSE(module(x, x, x, {.need_weights = false}).weights);
  const Tensor masked = module(x, x, x, {.attn_mask = later()}).output;
  EXPECT_NE(masked.to_vector<double>(), module(x, x, x).output.to_vector<double>());
  TransformerEncoder encoder(kWidth, 2, 1, {.layer = {.dropout = 0, .batch_first = true}});
  encoder.place({.dtype = DType::f64, .seed = 1});
  expect_near(encoder(x, {.mask = later()}), encoder.layers[0](x, {.mask = later()}));
}

TEST(TransformerEncoderLayer, BothOrdersOfTheNorms) {
  const Tensor x = random_tensor({kBatch, kTime, kWidth}, 1);
  for (bool norm_first : {false, true}) {
    TransformerEncoderLayer layer(kWidth, 2,
                                  {.dim_feedforward = 8,
                                   .dropout = 0,
                                   .activation = TransformerEncoderLayerOptions::Activation::gelu,
                                   .batch_first = true,
                                   .norm_first = norm_first});
    layer.place({.dtype = DType::f64, .seed = 1});
    const auto attend = [&](const Tensor& in) {
      return layer.self_attn(in, in, in, MultiheadAttentionArguments{.attn_mask = later()}).output;
    };
    const auto feed = [&](const Tensor& in) { return layer.linear2(gelu(layer.linear1(in))); };
    Tensor expected;
    if (norm_first) {
      const Tensor middle = x + attend(layer.norm1(x));
      expected = middle + feed(layer.norm2(middle));
    } else {
      const Tensor middle = layer.norm1(x + attend(x));
      expected = layer.norm2(middle + feed(middle));
    }
    expect_near(layer(x, TransformerArguments{.mask = later(), .is_causal = true}), expected);
  }
}

TEST(TransformerEncoderLayer, KeepsTheResidualStreamInF32UnderAutocast) {
  for (bool norm_first : {false, true}) {
    TransformerEncoderLayer layer(kWidth, 2,
                                  {.dim_feedforward = 8, .dropout = 0, .norm_first = norm_first});
    layer.place({.dtype = DType::f32, .seed = 1});
    const Tensor x = to(random_tensor({kTime, kBatch, kWidth}, 1), DType::f32);
    const Tensor expected = layer(x);
    const Autocast autocast(DType::bf16);
    const Tensor y = layer(x);
    EXPECT_EQ(y.dtype(), DType::f32);
    expect_near(y, expected, 0.05);
    EXPECT_NE(y.to_vector<float>(), to(y, DType::bf16).to_vector<float>()) << "rounded on its way";
  }
}

TEST(TransformerEncoder, DropsInTrainingAndPassesTheMasksOn) {
  TransformerEncoder encoder(kWidth, 2, 2,
                             {.layer = {.dim_feedforward = 8, .batch_first = true}, .norm = true});
  encoder.place({.dtype = DType::f64, .seed = 1});
  const Tensor x = random_tensor({kBatch, kTime, kWidth}, 1);
  context().random = {.seed = 3};
  EXPECT_NE(encoder(x).to_vector<double>(), encoder(x).to_vector<double>());
  encoder.eval();
  const Array changed = kernels::copy(x.value());
  changed.data<double>()[(kTime - 1) * kWidth] += 1;  // the first sample's last position
  const TransformerArguments causal{.mask = later(), .is_causal = true};
  expect_near(narrow(encoder(Tensor(changed), causal), 1, 0, kTime - 1),
              narrow(encoder(x, causal), 1, 0, kTime - 1));
  const Array padding = Array::zeros({kBatch, kTime}, DType::boolean);
  padding.data<bool>()[kTime - 1] = true;
  const TransformerArguments padded{.src_key_padding_mask = Tensor(padding)};
  expect_near(narrow(encoder(Tensor(changed), padded), 1, 0, kTime - 1),
              narrow(encoder(x, padded), 1, 0, kTime - 1));
}

}  // namespace
}  // namespace lockstep::nn
