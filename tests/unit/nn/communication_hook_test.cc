#include "lockstep/nn/parallel/communication_hook.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <mutex>

#include "lockstep/collectives/flight_recorder.h"
#include "lockstep/nn/layers.h"
#include "lockstep/nn/optim.h"
#include "lockstep/nn/parallel/data_parallel.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "support/gradient_check.h"
#include "support/thread_ranks.h"

namespace lockstep::nn {
namespace {

using testing::random_array;
using testing::run_ranks;

constexpr int kRanks = 3;

// A bucket of a matrix [12, 10] and a vector [7] with padding between; the same in every step.
struct Bucket {
  explicit Bucket(Communicator& communicator)
      : rank(communicator.rank()),
        values(Array::zeros({136}, DType::f32)),
        bucket{communicator, 0, values, {}} {
    bucket.gradients = {window({12, 10}, 0), window({7}, 128)};
    fill();
  }
  Array window(Shape shape, int64_t offset) const {
    return Array(values.storage(), DType::f32, shape, contiguous_strides(shape), offset);
  }
  void fill() {
    for (size_t i = 0; i < bucket.gradients.size(); ++i) {
      kernels::copy_into(kernels::cast(gradient(rank, i), DType::f32), bucket.gradients[i]);
    }
  }
  Array gradient(int of_rank, size_t i) const {
    return random_array(bucket.gradients[i].shape(), 10 * static_cast<uint64_t>(of_rank) + i);
  }
  std::vector<double> mean(size_t i) const {
    std::vector<double> total(static_cast<size_t>(bucket.gradients[i].elements()), 0);
    for (int r = 0; r < kRanks; ++r) {
      const auto values = gradient(r, i).to_vector<double>();
      for (size_t k = 0; k < total.size(); ++k) total[k] += values[k] / kRanks;
    }
    return total;
  }

  int rank;
  Array values;
  GradientBucket bucket;
};

void expect_near(const Array& found, const std::vector<double>& expected, double tolerance) {
  const auto values = found.to_vector<double>();
  for (size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(values[i], expected[i], tolerance) << i;
}

TEST(CommunicationHook, SixteenBitsGiveTheMeanWithinTheirRounding) {
  run_ranks(kRanks, [](Communicator& communicator) {
    for (const auto& [dtype, tolerance] :
         {std::pair(DType::bf16, 8e-3), std::pair(DType::f16, 1e-3)}) {
      Bucket b(communicator);
      const Work work = compress_to(dtype)(b.bucket);
      work.wait();
      EXPECT_TRUE(work.done());
      for (size_t i = 0; i < 2; ++i) expect_near(b.bucket.gradients[i], b.mean(i), tolerance);
    }
  });
}

TEST(CommunicationHook, TheTimerReportsEachBucketOnce) {
  std::atomic<int> reports{0};
  run_ranks(kRanks, [&](Communicator& communicator) {
    Bucket b(communicator);
    const auto hook = timed({}, [&](int bucket, std::chrono::nanoseconds time) {
      EXPECT_EQ(bucket, 0);
      EXPECT_GT(time.count(), 0);
      ++reports;
    });
    const Work work = hook(b.bucket);
    work.wait();
    work.wait();
    for (size_t i = 0; i < 2; ++i) expect_near(b.bucket.gradients[i], b.mean(i), 1e-6);
  });
  EXPECT_EQ(reports, kRanks);
}

// With error feedback nothing is lost: over many steps of one gradient the sum of what arrives is
// the sum of the means, but for what is still held back.
void expect_nothing_lost(const CommunicationHook& hook, Communicator& communicator, int steps,
                         double tolerance) {
  Bucket b(communicator);
  const Array total = Array::zeros(b.values.shape(), DType::f32);
  for (int step = 0; step < steps; ++step) {
    b.fill();
    hook(b.bucket).wait();
    kernels::scale_add(1.0 / steps, b.values, 1, total);
  }
  for (size_t i = 0; i < 2; ++i) {
    const Array& window = b.bucket.gradients[i];
    expect_near(
        Array(total.storage(), DType::f32, window.shape(), window.strides(), window.offset()),
        b.mean(i), tolerance);
  }
}

TEST(CommunicationHook, PowerSgdLosesNothing) {
  run_ranks(kRanks, [](Communicator& communicator) {
    for (int rank : {1, 2, 4}) {
      expect_nothing_lost(power_sgd({.rank = rank, .start_after = 0}), communicator, 400, 0.03);
    }
  });
}

// A parameter that a step did not use.
TEST(CommunicationHook, PowerSgdGoesOnAfterAGradientOfZeros) {
  run_ranks(kRanks, [](Communicator& communicator) {
    Bucket b(communicator);
    const CommunicationHook hook = power_sgd({.start_after = 0});
    kernels::fill(b.values, 0);
    hook(b.bucket).wait();
    b.fill();
    hook(b.bucket).wait();
    double largest = 0;
    for (double value : b.bucket.gradients[0].to_vector<double>()) {
      largest = std::max(largest, std::abs(value));
    }
    EXPECT_GT(largest, 0.01);
  });
}

// As a loss scale that is too large makes one.
TEST(CommunicationHook, ErrorFeedbackRecoversFromAnOverflow) {
  for (const bool factored : {true, false}) {
    run_ranks(kRanks, [&](Communicator& communicator) {
      Bucket own(communicator);
      const CommunicationHook hook =
          factored ? power_sgd({.rank = 2, .start_after = 0}) : top_k({.fraction = 0.2});
      for (int step = 0; step < 4; ++step) {
        own.fill();
        if (step == 1 && communicator.rank() == 1) kernels::fill(own.bucket.gradients[0], INFINITY);
        hook(own.bucket).wait();
        const double square = kernels::of(own.values).sum_of_squares(own.values.view());
        EXPECT_EQ(std::isfinite(square), step != 1) << step;
      }
    });
  }
}

TEST(CommunicationHook, PowerSgdSendsTheFactorsOnly) {
  run_ranks(kRanks, [](Communicator& communicator) {
    Bucket b(communicator);
    const CommunicationHook hook = power_sgd({.rank = 1, .start_after = 1});
    hook(b.bucket).wait();  // the plain mean
    for (size_t i = 0; i < 2; ++i) expect_near(b.bucket.gradients[i], b.mean(i), 1e-6);
    b.fill();
    hook(b.bucket).wait();
    const auto entries = communicator.recorder()->entries();
    EXPECT_EQ(entries.back().signature, "all_reduce(mean) of 10 f32");               // q
    EXPECT_EQ(entries[entries.size() - 2].signature, "all_reduce(mean) of 19 f32");  // vector, p
    expect_near(b.bucket.gradients[1], b.mean(1), 1e-6);
  });
}

TEST(CommunicationHook, TopKLosesNothing) {
  run_ranks(kRanks, [](Communicator& communicator) {
    expect_nothing_lost(top_k({.fraction = 0.1}), communicator, 400, 0.05);
    expect_nothing_lost(top_k({.fraction = 1, .error_feedback = false}), communicator, 1, 1e-6);
  });
}

// A user's own: the mean of the signs.
TEST(CommunicationHook, OwnHooksTrainThroughDataParallelism) {
  run_ranks(2, [](Communicator& communicator) {
    Linear model(3, 2);
    DistributedDataParallel ddp(model, communicator, {.hook = [](const GradientBucket& bucket) {
                                  kernels::copy_into(sign(Tensor(bucket.values)).value(),
                                                     bucket.values);
                                  return mean_of_bucket(bucket);
                                }});
    const double direction = communicator.rank() == 0 ? 1 : -1;
    const Tensor y = model(Tensor(Array::full({1, 3}, direction, DType::f32)));
    sum(y).backward();
    ddp.finish();
    for (double value : model.weight.grad().to_vector<double>()) EXPECT_EQ(value, 0);
    for (double value : model.bias.grad().to_vector<double>()) EXPECT_EQ(value, 1);
  });
}

}  // namespace
}  // namespace lockstep::nn
