#pragma once

#include "lockstep/nn/layers.h"
#include "lockstep/nn/parallel/data_parallel.h"
#include "unit/nn/data_parallel_testing.h"

// The model of the tests of sharding.
namespace lockstep::nn::testing_sharding {

inline constexpr int64_t kBatch = 48;

inline constexpr ShardLevel kLevels[] = {ShardLevel::none, ShardLevel::optimizer,
                                         ShardLevel::gradients, ShardLevel::parameters};

struct Part : Layer<Part> {
  Linear up{12, 20};
  Linear down{20, 12};
  LayerNorm norm{12};
  Tensor forward(const Tensor& x) { return x + down(gelu(up(norm(x)))); }
  void visit(Visitor& v) override {
    v("up", up);
    v("down", down);
    v("norm", norm);
  }
};

// Blocks in a list, a weight tied across them, a parameter of the module's own, and what is used
// only when told.
struct Blocks : Layer<Blocks> {
  Embedding table{10, 12};
  std::vector<Part> h = std::vector<Part>(3);
  Linear spare{12, 12};
  Parameter scale{{12}, Initializer::ones()};
  bool tied = false, use_spare = false;
  Linear head{12, 10};

  Tensor forward(const Tensor& tokens) {
    Tensor x = table(tokens) * scale;
    for (Part& part : h) x = part(x);
    if (use_spare) x = x + spare(x);
    return tied ? linear(x, table.weight) : head(x);
  }
  void visit(Visitor& v) override {
    v("table", table);
    v("h", h);
    v("spare", spare);
    v("scale", scale);
    v("head", head);
  }
};

inline Tensor loss_of(Blocks& net, int step, int64_t first, int64_t count) {
  std::vector<int64_t> tokens, labels;
  for (int64_t i = first; i < first + count; ++i) {
    tokens.push_back((i * 3 + step * 5) % 10);
    labels.push_back((i * 7 + step) % 10);
  }
  return cross_entropy(net(Tensor(Array::from(tokens, {count}))),
                       Tensor(Array::from(labels, {count})));
}

inline constexpr BucketSizes kSmall{.first_mb = 0.001, .other_mb = 0.004, .last_mb = 0.001};

}  // namespace lockstep::nn::testing_sharding
