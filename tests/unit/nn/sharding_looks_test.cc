// Sharded parameters: what is gathered when, in the same order on all ranks.
#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "lockstep/nn/blocks.h"
#include "lockstep/nn/init.h"
#include "lockstep/nn/optim.h"
#include "lockstep/nn/parallel/sharding.h"
#include "support/thread_ranks.h"
#include "unit/nn/sharding_testing.h"

namespace lockstep::nn {
namespace {

using namespace testing_sharding;
using testing::run_ranks;

DataParallelOptions options_of(ShardLevel level, LowPrecisionCopies* copies = nullptr) {
  return {.bucket_sizes = kSmall,
          .placement = {.dtype = DType::f32, .seed = 5},
          .shard = level,
          .copies = copies};
}

// However many buckets a block has, whichever way a backward pass that computes blocks again goes
// through them, and with several passes a step, of which only the last is followed by an update.
TEST(ShardingLooks, NothingIsGatheredTwiceForHavingBeenExpected) {
  const auto started = [](Communicator& communicator, bool prefetch, bool recompute, int passes) {
    Blocks net;
    LowPrecisionCopies copies(DType::bf16);
    DataParallelOptions options = options_of(ShardLevel::parameters, &copies);
    options.prefetch = prefetch;
    DistributedDataParallel ddp(net, communicator, options);
    optim::SGD sgd(net.parameters());
    sgd.set_copies(&copies);
    recompute_blocks(net, recompute);
    uint64_t before = 0;
    for (int step = 0; step < 4; ++step) {
      if (step == 2) before = communicator.collectives_started();
      sgd.zero_grad();
      for (int pass = 0; pass < passes; ++pass) {
        if (pass > 0) ddp.reduce();
        Tensor loss;
        {
          const Autocast autocast(copies);
          loss = loss_of(net, step, 0, 8);
        }
        loss.backward();
      }
      ddp.finish();
      sgd.step();
    }
    return communicator.collectives_started() - before;
  };
  for (const bool recompute : {false, true}) {
    for (const int passes : {1, 2, 3}) {
      SCOPED_TRACE(concat({passes, " passes", recompute ? ", recomputed" : ""}));
      run_ranks(2, [&](Communicator& communicator) {
        EXPECT_EQ(started(communicator, true, recompute, passes),
                  started(communicator, false, recompute, passes));
      });
    }
  }
}

// Blocks that are looked at before a child of theirs is called.
struct Scaled : Layer<Scaled> {
  Parameter scale{{30}, Initializer::ones()};
  Linear inner{30, 30};
  Tensor forward(const Tensor& x) { return inner(x * scale); }
  void visit(Visitor& v) override {
    v("scale", scale);
    v("inner", inner);
  }
};
struct Nested : Layer<Nested> {
  std::vector<Scaled> h = std::vector<Scaled>(5);
  Tensor forward(const Tensor& x) {
    Tensor y = x;
    for (Scaled& block : h) y = block(y);
    return y;
  }
  void visit(Visitor& v) override { v("h", h); }
};

struct AtEveryOp final : Tracer {
  std::function<void()> act;
  void op(const OpDescription&, std::span<const Array>, const Array&) override { act(); }
};

TEST(ShardingLooks, TwoBlocksAreHereAtATime) {
  run_ranks(2, [](Communicator& communicator) {
    Nested net;
    DistributedDataParallel ddp(net, communicator, options_of(ShardLevel::parameters));
    AtEveryOp tracer;
    size_t most = 0;
    tracer.act = [&] {
      std::set<std::string> here;
      for (const auto& [name, parameter] : ddp.parameters()) {
        if (parameter.tensor().value().storage()->attached()) here.insert(block_of(name));
      }
      most = std::max(most, here.size());
    };
    for (int step = 0; step < 3; ++step) {
      context().tracer = &tracer;
      const Tensor loss = sum(net(Tensor(Array::full({2, 30}, 1, DType::f32))));
      context().tracer = nullptr;
      loss.backward();
      ddp.finish();
    }
    EXPECT_EQ(most, 2u);
  });
}

// One rank alone uses the model, and makes copies in 16 bits that the others do not have.
TEST(ShardingLooks, WhatOneRankDidAloneDoesNotMatterLater) {
  run_ranks(2, [](Communicator& communicator) {
    Sequential net(Linear(16, 16), Linear(16, 16));
    LowPrecisionCopies copies(DType::bf16);
    DistributedDataParallel ddp(net, communicator, options_of(ShardLevel::parameters, &copies));
    const auto pass = [&] {
      const Autocast autocast(copies);
      return sum(net(Tensor(Array::full({2, 16}, 0.5, DType::f32))));
    };
    ddp.gather_parameters();
    if (communicator.rank() == 0) {
      const NoGrad off;
      pass();
    }
    net.load_state({{"0.weight", Array::full({16, 16}, 0.1, DType::f32)}}, false);
    pass().backward();
    EXPECT_NO_THROW(ddp.finish());
  });
}

// A rank whose slice has nothing of a parameter takes part in what follows from its change.
TEST(ShardingLooks, InitialisingAgainReachesAllRanks) {
  for (const ShardLevel level : kLevels) {
    run_ranks(3, [&](Communicator& communicator) {
      Sequential net(Linear(2, 2));
      DistributedDataParallel ddp(net, communicator, options_of(level));
      const Tensor x{Array::full({1, 2}, 1, DType::f32)};
      for (const Parameter& parameter : net.parameters()) init::apply(init::ones(), parameter);
      EXPECT_EQ(net(x).to_vector<float>(), (std::vector<float>{3, 3}));
    });
  }
}

}  // namespace
}  // namespace lockstep::nn
