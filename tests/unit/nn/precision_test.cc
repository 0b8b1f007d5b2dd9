// Mixed precision and data parallelism together, ranks as threads.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <optional>

#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/ops.h"
#include "lockstep/nn/optim.h"
#include "lockstep/nn/parallel/data_parallel.h"
#include "lockstep/runtime/backend.h"
#include "support/thread_ranks.h"
#include "unit/nn/data_parallel_testing.h"

namespace lockstep::nn {
namespace {

using testing_data_parallel::Net;
using testing_data_parallel::Values;
using testing_data_parallel::values_of;

Array half_of(const Array& batch, int rank) { return batch.narrow(0, 4 * rank, 4); }

// Net's first layers over f32 inputs.
Tensor forward(Net& net, int step, const std::function<Array(const Array&)>& part) {
  const Array x = kernels::cast(lockstep::testing::random_array({8, 6}, 50 + step), DType::f32);
  return mean(square(net(Tensor(part(x)))));
}

// What a rank did at each step.
struct Course {
  std::vector<bool> stepped;
  std::vector<double> scales;
  std::vector<double> norms;
  Values values;
};

// Six steps in f16, where rank 1's loss overflows in the third.
Course train_in_f16(Communicator& communicator, DataParallelOptions options = {}) {
  Net net;
  LowPrecisionCopies copies(DType::f16);
  options.placement.seed = 3;
  options.copies = &copies;
  DistributedDataParallel ddp(net, communicator, options);
  optim::AdamW optimizer(net.parameters(), {.learning_rate = 1e-2});
  optimizer.set_copies(&copies);
  optim::GradScaler scaler({.init_scale = 1024, .growth_interval = 2});
  Course course;
  for (int step = 0; step < 6; ++step) {
    optimizer.zero_grad();
    Tensor loss;
    {
      const Autocast autocast(copies);
      loss =
          forward(net, step, [&](const Array& x) { return half_of(x, communicator.rank() % 2); });
    }
    if (step == 2 && communicator.rank() == 1) loss = loss * double{INFINITY};
    scaler.scale(loss).backward();
    ddp.finish();
    const double norm = optim::gradient_norm(optimizer.parameters());
    course.norms.push_back(norm / scaler.scale());
    course.stepped.push_back(
        scaler.step(optimizer, norm, optim::clip_factor(norm / scaler.scale(), 1)));
    scaler.update();
    course.scales.push_back(scaler.scale());
  }
  course.values = values_of(net);
  return course;
}

TEST(Precision, AnOverflowOfOneRankMakesAllSkipTheStep) {
  for (const auto& [size, level] : {std::pair(2, ShardLevel::none),
                                    {4, ShardLevel::none},
                                    {2, ShardLevel::optimizer},
                                    {4, ShardLevel::gradients},
                                    {2, ShardLevel::parameters}}) {
    std::vector<Course> courses(static_cast<size_t>(size));
    lockstep::testing::run_ranks(size, [&, level = level](Communicator& communicator) {
      courses[static_cast<size_t>(communicator.rank())] =
          train_in_f16(communicator, {.shard = level});
    });
    for (const Course& course : courses) {
      EXPECT_EQ(course.stepped, (std::vector<bool>{true, true, false, true, true, true}));
      EXPECT_EQ(course.scales, (std::vector<double>{1024, 2048, 1024, 1024, 2048, 2048}));
      EXPECT_EQ(course.values, courses[0].values);
      for (const auto& [name, values] : course.values) {
        for (double value : values) EXPECT_TRUE(std::isfinite(value)) << name;
      }
    }
  }
}

// What the wire cannot hold comes out infinite on every rank, like any other overflow.
TEST(Precision, AScaleTooLargeForTheWireIsAnOverflow) {
  std::vector<std::vector<bool>> stepped(2);
  std::vector<double> scale(2);
  lockstep::testing::run_ranks(2, [&](Communicator& communicator) {
    Net net;
    DistributedDataParallel ddp(net, communicator,
                                {.placement = {.seed = 3}, .hook = compress_to(DType::f16)});
    optim::SGD optimizer(net.parameters(), {.learning_rate = 1e-3});
    optim::GradScaler scaler({.init_scale = 0x1p24});
    auto& mine = stepped[static_cast<size_t>(communicator.rank())];
    for (int step = 0; step < 20; ++step) {
      optimizer.zero_grad();
      scaler.scale(forward(net, 0, [](const Array& x) { return x; })).backward();
      ddp.finish();
      mine.push_back(scaler.step(optimizer));
      scaler.update();
    }
    scale[static_cast<size_t>(communicator.rank())] = scaler.scale();
    for (const auto& [name, values] : values_of(net)) {
      for (double value : values) EXPECT_TRUE(std::isfinite(value)) << name;
    }
  });
  EXPECT_EQ(stepped[0], stepped[1]);
  EXPECT_EQ(scale[0], scale[1]);
  EXPECT_FALSE(stepped[0].front());
  EXPECT_TRUE(stepped[0].back());
}

struct Precision {
  const char* name;
  std::optional<DType> half;
};

// Bytes of a rank for each parameter under Adam: values, gradients, two moments in f32, and the
// copy.
double bytes_for_a_parameter(const Precision& precision) {
  return 4 + 4 + 8 + (precision.half ? 2 : 0);
}

// 4.48 MiB in f32, of which the allocator makes 4.5: it rounds up to a 32nd of a power of two.
struct Wide : Layer<Wide> {
  Linear in{256, 1024}, middle{1024, 768}, out{768, 160};
  Tensor forward(const Tensor& x) { return out(gelu(middle(gelu(in(x))))); }
  void visit(Visitor& v) override {
    v("in", in);
    v("middle", middle);
    v("out", out);
  }
};

int64_t bytes_in_use() { return backend_of({}).statistics().in_use_bytes; }

TEST(Precision, MemoryOfAParameter) {
  for (const Precision& precision :
       {Precision{"f32", {}}, Precision{"bf16", DType::bf16}, Precision{"fp16", DType::f16}}) {
    const int64_t before = bytes_in_use();
    const auto alone = make_single_communicator();
    Wide net;
    const double bucket_mb = 0.25;
    DistributedDataParallel ddp(net, *alone, {.bucket_sizes = {bucket_mb, bucket_mb, bucket_mb}});
    std::optional<LowPrecisionCopies> copies;
    if (precision.half) copies.emplace(*precision.half);
    optim::AdamW optimizer(net.parameters(), {.learning_rate = 1e-3});
    if (copies) optimizer.set_copies(&*copies);
    for (int step = 0; step < 3; ++step) {
      optimizer.zero_grad();
      std::optional<Autocast> autocast;
      if (copies) autocast.emplace(*copies);
      const Tensor loss = mean(net(Tensor(Array::full({4, 256}, 0.5, DType::f32))));
      autocast.reset();
      loss.backward();
      ddp.finish();
      optimizer.step();
    }
    // One of the layout of the first step, one of the final layout.
    EXPECT_EQ(copies ? copies->conversions() : 2, 2);
    const double used = static_cast<double>(bytes_in_use() - before);
    const double parameters = static_cast<double>(net.parameter_count());
    const double expected = bytes_for_a_parameter(precision) * parameters;
    EXPECT_NEAR(used, expected, 0.03 * expected + 2 * bucket_mb * 1024 * 1024) << precision.name;
  }
}

}  // namespace
}  // namespace lockstep::nn
