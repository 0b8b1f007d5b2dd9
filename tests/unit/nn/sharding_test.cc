// One training, however it is shared out: the cross of sharding, ranks and what makes models awkward.

#include "lockstep/nn/parallel/sharding.h"

#include <gtest/gtest.h>

#include <mutex>

#include "lockstep/nn/layers/container.h"
#include "lockstep/nn/optim.h"
#include "lockstep/nn/parallel/data_parallel.h"
#include "lockstep/runtime/backend.h"
#include "support/thread_ranks.h"
#include "unit/nn/data_parallel_testing.h"

namespace lockstep::nn {
namespace {

using testing::run_ranks;
using testing_data_parallel::expect_close;
using testing_data_parallel::Values;

constexpr int64_t kBatch = 48;

constexpr ShardLevel kLevels[] = {ShardLevel::none, ShardLevel::optimizer, ShardLevel::gradients,
                                  ShardLevel::parameters};

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

struct Case {
  int accumulation = 1;
  double clip = 0;
  bool tied = false, unused = false, frozen = false;
};

std::string name_of(const Case& c) {
  return concat({"accumulation ", c.accumulation, c.clip > 0 ? ", clipped" : "",
                 c.tied ? ", tied" : "", c.unused ? ", unused" : "", c.frozen ? ", frozen" : ""});
}

Tensor loss_of(Blocks& net, int step, int64_t first, int64_t count) {
  std::vector<int64_t> tokens, labels;
  for (int64_t i = first; i < first + count; ++i) {
    tokens.push_back((i * 3 + step * 5) % 10);
    labels.push_back((i * 7 + step) % 10);
  }
  return cross_entropy(net(Tensor(Array::from(tokens, {count}))),
                       Tensor(Array::from(labels, {count})));
}

void one_step(Blocks& net, DistributedDataParallel& ddp, optim::Optimizer& optimizer, int step,
              const Communicator& communicator, const Case& c) {
  const int64_t share = kBatch / communicator.size(), micro = share / c.accumulation;
  // Used on no rank, on all, and frozen for a while.
  net.use_spare = !c.unused || step % 3 == 1;
  if (c.frozen) net.requires_grad(step >= 4 && step < 12, "h.1");
  optimizer.zero_grad();
  for (int i = 0; i < c.accumulation; ++i) {
    const bool last = i + 1 == c.accumulation;
    std::optional<DistributedDataParallel::NoSync> no_sync;
    if (!last && !ddp.reduces_each_micro_batch()) no_sync.emplace(ddp);
    const Tensor loss = loss_of(net, step, communicator.rank() * share + i * micro, micro);
    (loss * (1.0 / c.accumulation)).backward();
    if (!last && ddp.reduces_each_micro_batch()) ddp.reduce();
  }
  ddp.finish();
  const double norm = optim::gradient_norm(optimizer.parameters());
  optimizer.step(optim::clip_factor(norm, c.clip));
}

Values train(Communicator& communicator, ShardLevel level, const Case& c, BucketSizes sizes) {
  Blocks net;
  net.tied = c.tied;
  if (c.frozen) net.requires_grad(false, "h.1");
  DistributedDataParallel ddp(net, communicator,
                              {.bucket_sizes = sizes,
                               .placement = {.dtype = DType::f64, .seed = 5},
                               .shard = level});
  optim::AdamW optimizer(optim::decay_matrices_only(net.parameters(), 0.1),
                         {.learning_rate = 1e-2});
  for (int step = 0; step < 20; ++step) one_step(net, ddp, optimizer, step, communicator, c);
  return testing_data_parallel::values_of(net);
}

const BucketSizes kSmall{.first_mb = 0.001, .other_mb = 0.004, .last_mb = 0.001};

// Takes the case's bits: 16 kinds of training.
class ShardingCross : public ::testing::TestWithParam<int> {};

TEST_P(ShardingCross, EveryLevelAtEverySizeIsTheSameTraining) {
  const int bits = GetParam();
  Case c{.accumulation = (bits & 1) != 0 ? 2 : 1,
         .clip = (bits & 2) != 0 ? 0.3 : 0,
         .tied = (bits & 4) != 0,
         .unused = (bits & 8) != 0,
         .frozen = (bits & 16) != 0};
  const auto alone = make_single_communicator();
  Case whole = c;
  whole.accumulation = 1;
  const Values expected = train(*alone, ShardLevel::none, whole, {});
  for (int ranks : {1, 2, 3, 4, 8}) {
    for (ShardLevel level : kLevels) {
      std::mutex mutex;
      run_ranks(ranks, [&](Communicator& communicator) {
        const Values found = train(communicator, level, c, kSmall);
        const std::lock_guard lock(mutex);
        SCOPED_TRACE(concat({ranks, " ranks, level ", static_cast<int>(level), ", ", name_of(c)}));
        expect_close(found, expected, 1e-10);
      });
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, ShardingCross, ::testing::Range(0, 32));

}  // namespace
}  // namespace lockstep::nn
