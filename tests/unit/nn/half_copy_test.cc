#include "lockstep/nn/half_copy.h"

#include <gtest/gtest.h>

#include "lockstep/autograd/ops.h"
#include "lockstep/nn/layers.h"
#include "lockstep/nn/optim.h"
#include "lockstep/nn/parallel/data_parallel.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "support/gradient_check.h"

namespace lockstep::nn {
namespace {

struct Net : Layer<Net> {
  Linear hidden{8, 32}, output{32, 4};
  Tensor forward(const Tensor& x) { return output(gelu(hidden(x))); }
  void visit(Visitor& v) override {
    v("hidden", hidden);
    v("output", output);
  }
};

Tensor batch() { return kernels::cast(testing::random_array({16, 8}, 1), DType::f32); }
Tensor labels() {
  return Array::from<int64_t>({0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3}, {16});
}

// Losses of 20 steps.
std::vector<double> train(HalfCopy* half, Net& net) {
  optim::AdamW optimizer(net.parameters(), {.learning_rate = 1e-2});
  std::vector<double> losses;
  for (int step = 0; step < 20; ++step) {
    optimizer.zero_grad();
    std::optional<Autocast> autocast;
    if (half != nullptr) autocast.emplace(*half);
    const Tensor loss = cross_entropy(net(batch()), labels());
    autocast.reset();
    loss.backward();
    for (const Parameter& parameter : net.parameters()) {
      EXPECT_EQ(parameter.dtype(), DType::f32);
      EXPECT_EQ(parameter.grad().dtype(), DType::f32);
    }
    optimizer.step();
    losses.push_back(loss.item());
  }
  return losses;
}

TEST(HalfCopy, TrainingFollowsF32) {
  Net plain, mixed;
  plain.place({.seed = 3});
  mixed.place({.seed = 3});
  HalfCopy half(mixed.parameters());
  EXPECT_EQ(half.bytes(), 2 * mixed.parameter_count());
  const auto expected = train(nullptr, plain), found = train(&half, mixed);
  EXPECT_LT(expected.back(), 0.6 * expected.front());
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(found[i], expected[i], 0.02) << i;
  EXPECT_NE(found, expected) << "nothing was computed in 16 bits";
}

TEST(HalfCopy, FollowsTheOptimizer) {
  Net net;
  net.place({.seed = 3});
  HalfCopy half(net.parameters());
  train(&half, net);
  const Array& master = net.hidden.weight.tensor().value();
  EXPECT_EQ(Tensor(half.of(master)).to_vector<float>(),
            to(Tensor(master), DType::bf16).to_vector<float>());
}

TEST(HalfCopy, ParametersThatMoveIntoFlatBucketsTakeTheirCopyAlong) {
  Net net;
  net.place({.seed = 3});
  HalfCopy half(net.parameters());
  const auto alone = make_single_communicator();
  DistributedDataParallel ddp(net, *alone);
  {
    const Autocast autocast(half);
    net(batch());
  }
  const int64_t elements = net.parameter_count();
  EXPECT_LE(half.bytes(), 2 * elements + 4096) << "the copies of memory that is gone are gone";
  const Array& weight = net.output.weight.tensor().value();
  EXPECT_EQ(half.of(weight).offset(), weight.offset()) << "a window of the bucket's copy";
}

}  // namespace
}  // namespace lockstep::nn
