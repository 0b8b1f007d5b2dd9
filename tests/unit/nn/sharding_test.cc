#include "lockstep/nn/parallel/sharding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <mutex>

#include "lockstep/collectives/flight_recorder.h"
#include "lockstep/nn/blocks.h"
#include "lockstep/nn/optim.h"
#include "lockstep/nn/parallel/sync_batch_norm.h"
#include "support/thread_ranks.h"
#include "unit/nn/sharding_testing.h"

namespace lockstep::nn {
namespace {

using namespace testing_sharding;
using testing::run_ranks;
using testing_data_parallel::expect_close;
using testing_data_parallel::Values;

DataParallelOptions options_of(ShardLevel level) {
  return {.bucket_sizes = kSmall, .placement = {.dtype = DType::f64, .seed = 5}, .shard = level};
}

// Five steps with an optimizer and what `step` makes of the gradients.
template <class Optimizer, class Step>
Values train_with(Communicator& communicator, DataParallelOptions options, Step&& step) {
  Blocks net;
  DistributedDataParallel ddp(net, communicator, std::move(options));
  Optimizer optimizer(net.parameters());
  const int64_t share = kBatch / communicator.size();
  for (int i = 0; i < 5; ++i) {
    optimizer.zero_grad();
    loss_of(net, i, communicator.rank() * share, share).backward();
    ddp.finish();
    step(net, optimizer, i);
  }
  return testing_data_parallel::values_of(net);
}

template <class Optimizer, class Step>
void expect_same_at_every_level(Step&& step, double tolerance = 1e-10) {
  const auto alone = make_single_communicator();
  const Values expected = train_with<Optimizer>(*alone, options_of(ShardLevel::none), step);
  for (ShardLevel level : kLevels) {
    std::mutex mutex;
    run_ranks(3, [&](Communicator& communicator) {
      const Values found = train_with<Optimizer>(communicator, options_of(level), step);
      const std::lock_guard lock(mutex);
      SCOPED_TRACE(concat({"level ", static_cast<int>(level)}));
      expect_close(found, expected, tolerance);
    });
  }
}

TEST(Sharding, GradientsAreClippedAsOneVector) {
  expect_same_at_every_level<optim::SGD>([](Blocks& net, optim::SGD& sgd, int i) {
    const double types[] = {2, 1, 3, std::numeric_limits<double>::infinity()};
    optim::clip_grad_norm(net.parameters(), 0.1, {.norm_type = types[i % 4]});
    if (i == 4) optim::clip_grad_value(net.parameters(), 1e-3);
    sgd.step();
  });
}

TEST(Sharding, LengthsOfWholeParametersCountInLamb) {
  expect_same_at_every_level<optim::Lamb>([](Blocks&, optim::Lamb& lamb, int) { lamb.step(); });
}

TEST(Sharding, WeightsAreAveragedBySlices) {
  std::optional<optim::ExponentialMovingAverage> average[3];
  std::mutex mutex;
  std::vector<Values> seen;
  for (ShardLevel level : kLevels) {
    run_ranks(3, [&](Communicator& communicator) {
      auto& own = average[communicator.rank()];
      own.reset();
      train_with<optim::AdamW>(communicator, options_of(level),
                               [&](Blocks& net, optim::AdamW& adam, int i) {
                                 adam.step();
                                 if (!own) own.emplace(net, optim::AverageOptions{.decay = 0.7});
                                 own->update();
                                 const Values before = testing_data_parallel::values_of(net);
                                 {
                                   const auto evaluation = own->evaluation();
                                   const Values averaged = testing_data_parallel::values_of(net);
                                   const std::lock_guard lock(mutex);
                                   if (i == 4) seen.push_back(averaged);
                                 }
                                 const Values after = testing_data_parallel::values_of(net);
                                 const std::lock_guard lock(mutex);
                                 expect_close(after, before, 0);
                               });
      own.reset();
    });
  }
  for (const Values& averaged : seen) expect_close(averaged, seen.front(), 1e-10);
}

TEST(Sharding, GradientsTravelInLowerPrecision) {
  const auto step = [](Blocks&, optim::SGD& sgd, int) { sgd.step(); };
  Values expected;
  for (ShardLevel level : kLevels) {
    DataParallelOptions options = options_of(level);
    options.placement.dtype = DType::f32;
    options.reduce_dtype = DType::bf16;
    std::mutex mutex;
    run_ranks(2, [&](Communicator& communicator) {
      const Values found = train_with<optim::SGD>(communicator, options, step);
      const std::lock_guard lock(mutex);
      if (expected.empty()) expected = found;
      SCOPED_TRACE(concat({"level ", static_cast<int>(level)}));
      expect_close(found, expected, 1e-6);
    });
  }
}

TEST(Sharding, AHookReducesWholeBuckets) {
  const auto step = [](Blocks&, optim::SGD& sgd, int) { sgd.step(); };
  Values expected;
  for (ShardLevel level : {ShardLevel::none, ShardLevel::optimizer}) {
    std::mutex mutex;
    run_ranks(2, [&](Communicator& communicator) {
      DataParallelOptions options = options_of(level);
      options.hook = compress_to(DType::bf16);
      const Values found = train_with<optim::SGD>(communicator, options, step);
      const std::lock_guard lock(mutex);
      if (expected.empty()) expected = found;
      expect_close(found, expected, 1e-10);
    });
  }
}

TEST(Sharding, WhatMakesNoSenseIsRefused) {
  run_ranks(2, [](Communicator& communicator) {
    const auto refused = [&](DataParallelOptions options, const std::string& reason) {
      Blocks net;
      EXPECT_THAT([&] { DistributedDataParallel(net, communicator, options); },
                  ::testing::ThrowsMessage<Error>(::testing::HasSubstr(reason)));
    };
    DataParallelOptions hooked = options_of(ShardLevel::gradients);
    hooked.hook = top_k();
    refused(hooked, "a communication hook sees one reduction a step");
    DataParallelOptions tuned = options_of(ShardLevel::optimizer);
    tuned.tune_bucket_sizes = true;
    refused(tuned, "bucket sizes cannot be tried out");

    Blocks net;
    DistributedDataParallel ddp(net, communicator, options_of(ShardLevel::optimizer));
    EXPECT_THROW(ddp.set_bucket_sizes({}), Error);
    EXPECT_THROW(ddp.reduce(), Error);
    EXPECT_THROW(net.to(DType::f32), Error);
    optim::Muon muon({net.h[0].up.weight});
    loss_of(net, 0, 0, 8).backward();
    ddp.finish();
    EXPECT_THAT([&] { muon.step(); },
                ::testing::ThrowsMessage<Error>(::testing::HasSubstr("needs whole parameters")));
  });
}

TEST(Sharding, AGradientIsASlice) {
  for (ShardLevel level : {ShardLevel::optimizer, ShardLevel::gradients, ShardLevel::parameters}) {
    run_ranks(2, [&](Communicator& communicator) {
      Blocks net;
      DistributedDataParallel ddp(net, communicator, options_of(level));
      loss_of(net, 0, 0, 8).backward();
      ddp.finish();
      EXPECT_THAT([&] { net.head.weight.grad().to_vector<double>(); },
                  ::testing::ThrowsMessage<Error>(
                      ::testing::HasSubstr("the gradient of a sharded parameter is not here")));
      double elements = static_cast<double>(net.head.weight.own_gradient().elements());
      net.head.weight.shard()->owner->sum(std::span(&elements, 1));
      EXPECT_EQ(elements, 120);
    });
  }
}

TEST(Sharding, ParametersOutliveIt) {
  run_ranks(2, [](Communicator& communicator) {
    Blocks whole, sliced;
    {
      DistributedDataParallel one(whole, communicator, options_of(ShardLevel::gradients));
      DistributedDataParallel other(sliced, communicator, options_of(ShardLevel::parameters));
      optim::SGD sgd(whole.parameters());
      loss_of(whole, 0, 0, 8).backward();
      one.finish();
      sgd.step();  // its gathers are under way when the data parallelism ends
    }
    loss_of(whole, 0, 0, 8).backward();
    EXPECT_EQ(whole.head.weight.grad().shape(), Shape({10, 12}));
    EXPECT_THAT([&] { loss_of(sliced, 0, 0, 8); },
                ::testing::ThrowsMessage<Error>(::testing::HasSubstr("that is gone")));
  });
}

TEST(Sharding, AModelIsLoadedAndReadAsAWhole) {
  Blocks other;
  other.place({.dtype = DType::f64, .seed = 77});
  std::map<std::string, Array> given;
  for (const auto& [name, array] : other.state()) given[name] = kernels::copy(array);
  for (ShardLevel level : kLevels) {
    run_ranks(3, [&](Communicator& communicator) {
      Blocks net;
      DistributedDataParallel ddp(net, communicator, options_of(level));
      net.load_state(given);
      expect_close(testing_data_parallel::values_of(net), testing_data_parallel::values_of(other),
                   0);
      ddp.gather_parameters();
      // Who comes here knows that all have come.
      EXPECT_EQ(communicator.recorder()->last("world")->what, "parameters gathered");
      if (communicator.rank() == 1) loss_of(net, 0, 0, 8);  // alone
    });
  }
}

bool is_here(const Parameter& parameter) {
  return parameter.tensor().value().storage()->attached();
}

// Blocks have memory while they are used, and the next one has when it is expected.
TEST(Sharding, OneBlockIsHereAtATime) {
  for (bool prefetch : {false, true}) {
    run_ranks(2, [&](Communicator& communicator) {
      Blocks net;
      DataParallelOptions options = options_of(ShardLevel::parameters);
      options.prefetch = prefetch;
      DistributedDataParallel ddp(net, communicator, options);
      optim::SGD sgd(net.parameters());
      for (int step = 0; step < 3; ++step) {
        SCOPED_TRACE(concat({"step ", step, prefetch ? ", prefetched" : ""}));
        const bool expected = prefetch && step > 0;
        sgd.zero_grad();
        const uint64_t before = communicator.collectives_started();
        const Tensor loss = loss_of(net, step, 0, 8);
        // The last one stays for the backward pass, which looks at the one before it next.
        EXPECT_TRUE(is_here(net.head.weight));
        EXPECT_FALSE(is_here(net.h[0].up.weight));
        EXPECT_EQ(is_here(net.h[2].up.weight), false);
        loss.backward();
        ddp.finish();
        EXPECT_FALSE(is_here(net.head.weight));
        sgd.step();
        EXPECT_EQ(is_here(net.table.weight), expected);
        EXPECT_FALSE(is_here(net.h[0].up.weight));
        // Forward: the table, three blocks, spare's bucket is never looked at, scale, head; back:
        // three blocks and the scale. Six buckets of gradients and one of those, control, buffers.
        if (step > 0 && !prefetch) {
          EXPECT_EQ(communicator.collectives_started() - before, 6 + 4 + 7 + 1);
        }
      }
    });
  }
}

// Matrices travel in 16 bits to where they are read so; who reads them in f32 gets them in f32.
TEST(Sharding, ValuesAreGatheredInTheDtypeTheyAreReadIn) {
  Values expected;
  for (ShardLevel level : kLevels) {
    std::mutex mutex;
    run_ranks(2, [&](Communicator& communicator) {
      Blocks net;
      net.tied = true;
      LowPrecisionCopies copies(DType::bf16);
      DataParallelOptions options = options_of(level);
      options.placement.dtype = DType::f32;
      options.copies = &copies;
      DistributedDataParallel ddp(net, communicator, options);
      optim::SGD sgd(net.parameters(), {.learning_rate = 0.1});
      sgd.set_copies(&copies);
      EXPECT_EQ(recompute_blocks(net, level == ShardLevel::parameters), 3);
      for (int step = 0; step < 5; ++step) {
        sgd.zero_grad();
        Tensor loss;
        {
          const Autocast autocast(copies);
          loss = loss_of(net, step, communicator.rank() * 24, 24);
        }
        if (level == ShardLevel::parameters) {
          EXPECT_FALSE(is_here(net.h[2].up.weight));
        }
        loss.backward();
        if (level == ShardLevel::parameters) {
          EXPECT_FALSE(is_here(net.h[0].up.weight));
        }
        ddp.finish();
        sgd.step(optim::clip_factor(optim::gradient_norm(sgd.parameters()), 1));
      }
      const Values found = testing_data_parallel::values_of(net);
      const std::lock_guard lock(mutex);
      if (expected.empty()) expected = found;
      SCOPED_TRACE(concat({"level ", static_cast<int>(level)}));
      expect_close(found, expected, 1e-3);
    });
  }
}

// Matrices and vectors, which are buckets apart in 16 bits, travel until the next block's are
// there.
TEST(Sharding, GradientsOfABlockTravelWhileTheNextOnesCome) {
  run_ranks(2, [&](Communicator& communicator) {
    Blocks net;
    LowPrecisionCopies copies(DType::bf16);
    DataParallelOptions options = options_of(ShardLevel::parameters);
    options.placement.dtype = DType::f32;
    options.copies = &copies;
    DistributedDataParallel ddp(net, communicator, options);
    const auto travels = [&](int block) {
      return net.h[static_cast<size_t>(block)].up.weight.leaf().gradient().storage()->attached();
    };
    for (int step = 0; step < 3; ++step) {
      SCOPED_TRACE(step);
      std::vector<bool> seen;  // when each block's backward pass is over
      Tensor loss;
      {
        const Autocast autocast(copies);
        Tensor x = net.table(Tensor(Array::from(std::vector<int64_t>{1, 2, 3}, {3}))) * net.scale;
        for (int block = 0; block < 3; ++block) {
          x.register_hook([&, block](const Tensor&) {
            seen.push_back(travels(block));
            if (block < 2) seen.push_back(travels(block + 1));
          });
          x = net.h[static_cast<size_t>(block)](x);
        }
        loss = cross_entropy(net.head(x), Tensor(Array::from(std::vector<int64_t>{4, 5, 6}, {3})));
      }
      loss.backward();
      // In the first step buckets wait for each other.
      if (step > 0) EXPECT_EQ(seen, (std::vector<bool>{true, true, false, true, false}));
      ddp.finish();
    }
  });
}

struct Normed : Layer<Normed> {
  Linear in{6, 8};
  BatchNorm1d norm{8};
  std::vector<Linear> out;
  Normed() { out.emplace_back(8, 4); }
  Tensor forward(const Tensor& x) { return out[0](relu(norm(in(x)))); }
  void visit(Visitor& v) override {
    v("in", in);
    v("norm", norm);
    v("out", out);
  }
};

TEST(Sharding, BatchNormSharesItsStatistics) {
  Values expected;
  std::vector<double> expected_mean;
  for (ShardLevel level : kLevels) {
    for (int ranks : {1, 3}) {
      std::mutex mutex;
      run_ranks(ranks, [&](Communicator& communicator) {
        Normed net;
        synchronize_batch_norm(net, communicator);
        DistributedDataParallel ddp(net, communicator, options_of(level));
        optim::SGD sgd(net.parameters(), {.learning_rate = 0.1, .momentum = 0.9});
        const int64_t share = 12 / communicator.size();
        for (int step = 0; step < 5; ++step) {
          sgd.zero_grad();
          const Array x = lockstep::testing::random_array({12, 6}, 70 + step);
          const Array own = x.narrow(0, communicator.rank() * share, share);
          mean(square(net(Tensor(own)))).backward();
          ddp.finish();
          sgd.step();
        }
        const Values found = testing_data_parallel::values_of(net);
        const auto mean = net.norm.running_mean.array().to_vector<double>();
        const std::lock_guard lock(mutex);
        if (expected.empty()) expected = found, expected_mean = mean;
        SCOPED_TRACE(concat({"level ", static_cast<int>(level), ", ", ranks, " ranks"}));
        expect_close(found, expected, 1e-10);
        for (size_t i = 0; i < mean.size(); ++i) EXPECT_NEAR(mean[i], expected_mean[i], 1e-12);
      });
    }
  }
}

}  // namespace
}  // namespace lockstep::nn
