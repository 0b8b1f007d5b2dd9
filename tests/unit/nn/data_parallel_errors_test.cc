// What data parallelism refuses, and how it fails.

#include "lockstep/nn/parallel/data_parallel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "lockstep/nn/optim.h"
#include "support/nccl_ranks.h"
#include "support/thread_ranks.h"
#include "unit/nn/data_parallel_testing.h"

namespace lockstep::nn {
namespace {

using namespace testing_data_parallel;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::run_ranks;

TEST(DataParallelErrors, DifferentModelsAreNamed) {
  struct Other : Net {
    void visit(Visitor& v) override {
      v("in", in);
      v("norm", spare);
    }
  };
  run_ranks(2, [](Communicator& communicator) {
    Net net;
    Other other;
    Module& mine = communicator.rank() == 0 ? static_cast<Module&>(net) : other;
    try {
      DistributedDataParallel ddp(mine, communicator);
      ADD_FAILURE() << "expected an error";
    } catch (const Error& error) {
      EXPECT_STREQ(error.what(),
                   "the ranks hold different models: rank 0 has 'norm.weight [16]' where rank 1 "
                   "has 'norm.weight [4, 16]'");
    }
  });
}

// The message of the Error that `act` throws.
std::string error_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// What one rank alone cannot do is an error on all of them.
TEST(DataParallelErrors, ARankThatCannotTakePartIsNamedByAll) {
  run_ranks(3, [](Communicator& communicator) {
    Net net, other;
    const bool mine = communicator.rank() == 1;
    const Device device{mine ? DeviceKind::cuda : DeviceKind::cpu, 0};
    EXPECT_EQ(error_of([&] {
                DistributedDataParallel ddp(net, communicator, {.placement = {.device = device}});
              }),
              "rank 1: data parallelism: the module's placement is on cuda:0, the communicator on "
              "cpu");
    DistributedDataParallel ddp(net, communicator);
    other.place({});
    Module& shared = mine ? net : other;
    EXPECT_THAT(error_of([&] { DistributedDataParallel second(shared, communicator); }),
                AllOf(HasSubstr("rank 1: the parameter in.weight belongs to another")));
  });
}

TEST(DataParallelErrors, SteppingBeforeFinish) {
  const auto communicator = make_single_communicator();
  Net net;
  DistributedDataParallel ddp(net, *communicator, {.placement = {.dtype = DType::f64}});
  optim::SGD optimizer(net.parameters(), {});
  loss_of(net, 0, 0, 4).backward();
  EXPECT_THROW(optimizer.step(), Error);
  ddp.finish();
  optimizer.step();
}

TEST(DataParallelErrors, ClippingBeforeFinish) {
  const auto communicator = make_single_communicator();
  Net net;
  DistributedDataParallel ddp(net, *communicator, {.placement = {.dtype = DType::f64}});
  loss_of(net, 0, 0, 4).backward();
  const std::vector<Parameter> parameters = net.parameters();
  EXPECT_EQ(error_of([&] { optim::gradient_norm(parameters); }),
            "gradient clipping: the gradient of a parameter of shape [16, 6] is not reduced over "
            "the ranks; call finish() of the data parallelism first");
  EXPECT_THROW(optim::clip_grad_norm(parameters, 1), Error);
  EXPECT_THROW(optim::clip_grad_value(parameters, 1), Error);
  ddp.finish();
  optim::clip_grad_norm(parameters, 1);
}

// A critic gets gradients that nobody wants while the generator learns. Dropped without finish()
// they would come back into its next step.
TEST(DataParallelErrors, DroppingGradientsThatAreOnTheirWay) {
  run_ranks(2, [](Communicator& communicator) {
    Net net;
    DistributedDataParallel ddp(net, communicator, {.placement = {.dtype = DType::f64}});
    optim::SGD optimizer(net.parameters(), {});
    {
      const auto no_sync = ddp.no_sync();
      loss_of(net, 0, 0, 4).backward();
    }
    optimizer.zero_grad();  // nothing has left
    net.use_spare = true;
    loss_of(net, 0, 0, 4).backward();
    EXPECT_EQ(error_of([&] { optimizer.zero_grad(); }),
              "zero_grad: the gradient of shape [16, 6] is being reduced over the ranks; call "
              "finish() of the data parallelism first");
    ddp.finish();
    optimizer.zero_grad();
  });
}

TEST(DataParallelErrors, WeightAfterBackward) {
  const auto communicator = make_single_communicator();
  Net net;
  DistributedDataParallel ddp(net, *communicator, {.placement = {.dtype = DType::f64}});
  net.use_spare = true;
  ddp.set_weight(4);
  loss_of(net, 0, 0, 4).backward();
  EXPECT_EQ(error_of([&] { ddp.set_weight(2); }),
            "set_weight: gradients of this step are on their way; call it before backward");
  ddp.finish();
  ddp.set_weight(2);
}

// NCCL lets pass what differs in nothing but its meaning, and some of the rest.
TEST(DataParallelErrors, RanksThatMadeOtherCollectivesLearnOfItAtTheEndOfTheStep) {
  const auto ends = testing::run_nccl_ranks({.size = 3}, [](const testing::Rank& rank) {
    Net net;
    DistributedDataParallel ddp(net, rank.communicator, {.placement = {.dtype = DType::f64}});
    const auto add_up = [&](const char* what) {
      rank.communicator.all_reduce(Array::zeros({4}, DType::f32), ReduceOp::sum, {.what = what})
          .wait();
    };
    const bool swaps = rank.communicator.rank() == 1;
    loss_of(net, 0, 0, 4).backward();
    ddp.finish();
    add_up(swaps ? "accuracy" : "loss");
    add_up(swaps ? "loss" : "accuracy");
    loss_of(net, 1, 0, 4).backward();
    ddp.finish();
  });
  EXPECT_THAT(ends, ::testing::Each(HasSubstr("ranks called different collectives in or before")));
}

TEST(DataParallelErrors, AParameterAddedLater) {
  struct Growing : Net {
    std::vector<Linear> more;
    void visit(Visitor& v) override {
      Net::visit(v);
      v("more", more);
    }
  };
  const auto communicator = make_single_communicator();
  Growing net;
  net.out.bias = net.spare.bias;
  DistributedDataParallel ddp(net, *communicator, {.placement = {.dtype = DType::f64}});
  ddp.finish();
  net.middle.weight = net.out.bias;  // known
  ddp.finish();
  net.more.emplace_back(4, 4);
  EXPECT_EQ(error_of([&] { ddp.finish(); }),
            "parameter more.0.weight of shape [4, 4] was added to the module after its "
            "DistributedDataParallel was made");
}

TEST(DataParallelErrors, FreezingOnOneRankOnly) {
  run_ranks(2, [](Communicator& communicator) {
    Net net;
    DistributedDataParallel ddp(net, communicator, {.placement = {.dtype = DType::f64}});
    net.spare.weight.set_frozen(communicator.rank() == 1);
    try {
      ddp.finish();
      ADD_FAILURE() << "expected an error";
    } catch (const Error& error) {
      EXPECT_STREQ(error.what(),
                   "parameter spare.weight is frozen on 1 of 2 ranks: all or none must freeze it");
    }
  });
}

// The others do not wait for the rank whose hook failed, and hear why.
TEST(DataParallelErrors, AHookThatThrowsOnOneRankFailsAll) {
  for (const bool later : {false, true}) {
    run_ranks(3, [&](Communicator& communicator) {
      communicator.set_timeout(std::chrono::seconds(60));
      Net net;
      const CommunicationHook hook = [&](const GradientBucket& bucket) {
        const auto maybe_fail = [&communicator] {
          if (communicator.rank() == 1) fail({"no room for factors"});
          return Work();
        };
        if (!later) maybe_fail();
        return mean_of_bucket(bucket).then(maybe_fail);
      };
      DistributedDataParallel ddp(net, communicator, {.hook = hook});
      try {
        sum(net(Tensor(Array::full({2, 6}, 1, DType::f32)))).backward();
        ddp.finish();
        ADD_FAILURE() << "expected an error on rank " << communicator.rank();
      } catch (const CollectiveError& error) {
        EXPECT_THAT(error.what(),
                    AllOf(HasSubstr("the communication hook failed on rank 1 in step 0, phase "),
                          HasSubstr(": no room for factors")));
      }
    });
  }
}

}  // namespace
}  // namespace lockstep::nn
