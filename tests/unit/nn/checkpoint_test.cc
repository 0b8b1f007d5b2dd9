// Recomputation with modules and under data parallelism.

#include "lockstep/autograd/checkpoint.h"

#include <gtest/gtest.h>

#include <mutex>

#include "lockstep/autograd/ops.h"
#include "lockstep/nn/layers.h"
#include "lockstep/nn/parallel/data_parallel.h"
#include "support/gradient_check.h"
#include "support/thread_ranks.h"

namespace lockstep::nn {
namespace {

using testing::random_array;
using testing::run_ranks;

struct Block : Layer<Block> {
  LayerNorm norm{8};
  Linear up{8, 16}, down{16, 8};
  Tensor forward(const Tensor& x) { return x + dropout(down(gelu(up(norm(x)))), 0.2); }
  void visit(Visitor& v) override {
    v("norm", norm);
    v("up", up);
    v("down", down);
  }
};

// The first block is used twice: its parameters are tied.
struct Net : Layer<Net> {
  Block first, second;
  bool recompute = false;
  Tensor forward(const Tensor& x) {
    Tensor h = x;
    for (Block* block : {&first, &second, &first})
      h = recompute ? checkpoint(*block, h) : (*block)(h);
    return h;
  }
  void visit(Visitor& v) override {
    v("first", first);
    v("second", second);
  }
};

std::vector<std::vector<double>> gradients(Communicator& communicator, bool recompute) {
  Net net;
  net.recompute = recompute;
  DistributedDataParallel ddp(
      net, communicator,
      {.bucket_sizes = {.first_mb = 0.0005, .other_mb = 0.001, .last_mb = 0.0005},
       .placement = {.dtype = DType::f64, .seed = 5}});
  context().random = {.seed = 11, .first_sample = static_cast<uint32_t>(4 * communicator.rank())};
  const Array x = random_array({8, 8}, 1).narrow(0, 4 * communicator.rank() % 8, 4);
  sum(square(net(Tensor(x)))).backward();
  ddp.finish();
  std::vector<std::vector<double>> all;
  for (const Parameter& parameter : net.parameters()) {
    all.push_back(parameter.grad().to_vector<double>());
  }
  return all;
}

TEST(Checkpoint, OfModulesUnderDataParallelism) {
  for (int ranks : {1, 2}) {
    std::mutex mutex;
    run_ranks(ranks, [&](Communicator& communicator) {
      const auto expected = gradients(communicator, false);
      const auto found = gradients(communicator, true);
      const std::lock_guard lock(mutex);
      ASSERT_EQ(found.size(), 12u);
      for (size_t i = 0; i < found.size(); ++i) {
        for (size_t j = 0; j < found[i].size(); ++j) {
          EXPECT_NEAR(found[i][j], expected[i][j], 1e-13 * std::max(1.0, std::abs(expected[i][j])))
              << ranks << " ranks, parameter " << i;
        }
      }
    });
  }
}

TEST(Checkpoint, LeafHooksFireOnceForTiedBlocks) {
  Net net;
  net.recompute = true;
  net.place({.dtype = DType::f64});
  std::vector<int> fired(net.parameters().size());
  for (size_t i = 0; i < fired.size(); ++i) {
    net.parameters()[i].leaf().set_hook([&fired, i] { ++fired[i]; });
  }
  sum(net(Tensor(random_array({4, 8}, 1)))).backward();
  EXPECT_EQ(fired, std::vector<int>(fired.size(), 1));
}

}  // namespace
}  // namespace lockstep::nn
