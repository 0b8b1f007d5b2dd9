#include "lockstep/nn/blocks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <tuple>

#include "lockstep/nn/layers.h"
#include "lockstep/runtime/backend.h"
#include "support/gradient_check.h"

namespace lockstep::nn {
namespace {

struct Counted : Layer<Counted> {
  Linear inner{4, 4};
  std::vector<Linear> nested;
  int calls = 0;
  Counted() { nested.emplace_back(4, 4); }
  Tensor forward(const Tensor& x) {
    ++calls;
    return tanh(nested[0](inner(x)));
  }
  void visit(Visitor& v) override {
    v("inner", inner);
    v("nested", nested);
  }
};

struct Net : Layer<Net> {
  Linear first{4, 4};
  std::vector<Counted> h = std::vector<Counted>(2);
  Tensor forward(const Tensor& x) { return h[1](h[0](first(x))); }
  void visit(Visitor& v) override {
    v("first", first);
    v("h", h);
  }
};

TEST(Blocks, AreElementsOfTheOutermostLists) {
  Net net;
  std::vector<std::string> names;
  for (const NamedModule& block : blocks_of(net)) names.push_back(block.name);
  EXPECT_THAT(names, ::testing::ElementsAre("h.0", "h.1"));
  EXPECT_EQ(block_of("h.0.nested.0.weight"), "h.0");
  EXPECT_EQ(block_of("layer1.0.conv1.weight"), "layer1.0");
  EXPECT_EQ(block_of("first.weight"), "first");
  EXPECT_EQ(block_of("scale"), "");
  EXPECT_EQ(block_of("h2.weight"), "h2");
}

TEST(Blocks, RunAgainInTheBackwardPass) {
  Net kept, recomputed;
  kept.place({.dtype = DType::f64, .seed = 3});
  recomputed.place({.dtype = DType::f64, .seed = 3});
  EXPECT_EQ(recompute_blocks(recomputed), 2);
  const Tensor x = randn({3, 4}, {.dtype = DType::f64});
  for (Net* net : {&kept, &recomputed}) sum(square((*net)(x))).backward();
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(kept.h[i].calls, 1);
    EXPECT_EQ(recomputed.h[i].calls, 2);
    EXPECT_EQ(recomputed.h[i].inner.weight.grad().to_vector<double>(),
              kept.h[i].inner.weight.grad().to_vector<double>());
  }
  EXPECT_EQ(recomputed.first.weight.grad().to_vector<double>(),
            kept.first.weight.grad().to_vector<double>());
  {
    const NoGrad no_grad;  // nothing to compute again
    recomputed(x);
  }
  EXPECT_EQ(recomputed.h[0].calls, 3);
  recompute_blocks(recomputed, false);
  sum(recomputed(x)).backward();
  EXPECT_EQ(recomputed.h[0].calls, 4);
}

// A residual stream, and what the next block's norm adds to it.
struct Residual : Layer<Residual> {
  LayerNorm norm{4};
  Linear linear{4, 4};
  int calls = 0;
  std::pair<Tensor, Tensor> forward(const Tensor& x, const Tensor& delta) {
    ++calls;
    const AddLayerNorm in = norm.add(x, delta);
    return {in.sum, tanh(linear(in.normalized))};
  }
  void visit(Visitor& v) override {
    v("norm", norm);
    v("linear", linear);
  }
};

struct ResidualNet : Layer<ResidualNet> {
  std::vector<Residual> h = std::vector<Residual>(3);
  Tensor forward(const Tensor& in) {
    Tensor x = in, delta;
    for (Residual& block : h) std::tie(x, delta) = block(x, delta);
    return x + delta;
  }
  void visit(Visitor& v) override { v("h", h); }
};

TEST(Blocks, ThatReturnPairsRunAgain) {
  ResidualNet kept, recomputed;
  kept.place({.dtype = DType::f64, .seed = 3});
  recomputed.place({.dtype = DType::f64, .seed = 3});
  EXPECT_EQ(recompute_blocks(recomputed), 3);
  const Array values = testing::random_array({3, 4}, 1);
  std::vector<double> gradients[2];
  for (int i : {0, 1}) {
    ResidualNet& net = i == 0 ? kept : recomputed;
    const Tensor x = Tensor::variable(kernels::copy(values));
    sum(square(net(x))).backward();
    gradients[i] = x.grad().to_vector<double>();
    for (const Residual& block : net.h) EXPECT_EQ(block.calls, i + 1);
  }
  EXPECT_THAT(gradients[1], ::testing::Pointwise(::testing::DoubleNear(1e-12), gradients[0]));
  const auto theirs = recomputed.named_parameters();
  for (const NamedParameter& p : kept.named_parameters()) {
    const auto same = std::find_if(theirs.begin(), theirs.end(),
                                   [&](const NamedParameter& q) { return q.name == p.name; });
    EXPECT_THAT(
        same->parameter.grad().to_vector<double>(),
        ::testing::Pointwise(::testing::DoubleNear(1e-12), p.parameter.grad().to_vector<double>()))
        << p.name;
  }
}

// A list of parts that their parent does not call: it reads the parameters of one, and adds with
// the other. Asked for is then the parent.
struct Fused : Layer<Fused> {
  std::vector<Linear> linear;
  std::vector<LayerNorm> norm;
  Fused() {
    for (int i = 0; i < 2; ++i) linear.emplace_back(4, 4);
    norm.emplace_back(4);
  }
  Tensor forward(const Tensor& x) {
    const Tensor y = feed_forward(x, linear[0].weight, linear[0].bias.tensor_or_empty(),
                                  linear[1].weight, linear[1].bias.tensor_or_empty());
    return norm[0].add(x, y).normalized;
  }
  void visit(Visitor& v) override {
    v("linear", linear);
    v("norm", norm);
  }
};

TEST(Blocks, ThatAreNotCalledDoNotRunAgain) {
  Fused net;
  Net called;
  for (Module* module : std::initializer_list<Module*>{&net, &called}) {
    module->place({.seed = 3});
    recompute_blocks(*module);
    EXPECT_FALSE(blocks_not_recomputed(*module).empty());
  }
  const Tensor x = randn({3, 4});
  sum(net(x) + called(x)).backward();
  EXPECT_THAT(blocks_not_recomputed(net), ::testing::ElementsAre("linear.0", "linear.1", "norm.0"));
  EXPECT_THAT(blocks_not_recomputed(called), ::testing::IsEmpty());
  recompute_blocks(net, false);
  EXPECT_THAT(blocks_not_recomputed(net), ::testing::IsEmpty());
  net.set_recompute(true);
  sum(net(x)).backward();
  EXPECT_TRUE(net.has_recomputed());
}

// Their forward takes more than a tensor.
TEST(Blocks, LayersOfAnEncoderRunAgain) {
  std::vector<std::vector<double>> gradients;
  size_t kept[2];
  for (bool recompute : {false, true}) {
    TransformerEncoder encoder(8, 2, 2, {.layer = {.dim_feedforward = 16, .dropout = 0}});
    encoder.place({.dtype = DType::f64, .seed = 3});
    EXPECT_EQ(recompute_blocks(encoder, recompute), 2);
    const Tensor x = Tensor(testing::random_array({2, 3, 8}, 1));
    const int64_t before = backend_of({}).statistics().in_use_bytes;
    const Tensor loss = sum(square(encoder(x)));
    kept[recompute ? 1 : 0] =
        static_cast<size_t>(backend_of({}).statistics().in_use_bytes - before);
    loss.backward();
    gradients.push_back(encoder.layers[0].linear1.weight.grad().to_vector<double>());
  }
  EXPECT_LT(kept[1], kept[0]);
  EXPECT_EQ(gradients[0], gradients[1]);
}

}  // namespace
}  // namespace lockstep::nn
