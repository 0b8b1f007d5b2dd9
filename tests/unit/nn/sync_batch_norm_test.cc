// Ranks are threads of this process.
#include "lockstep/nn/parallel/sync_batch_norm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>

#include "lockstep/autograd/checkpoint.h"
#include "lockstep/nn/models/resnet.h"
#include "support/gradient_check.h"
#include "support/recorded_cnn.h"
#include "support/thread_ranks.h"

namespace lockstep::nn {
namespace {

using testing::random_array;
using testing::run_ranks;

TEST(SyncBatchNorm, TrainsAsRecordedWithTheStatisticsOfAllRanks) {
  for (const int ranks : {1, 2, 4}) {
    run_ranks(ranks, [](Communicator& c) { testing::train_recorded_cnn(c, true); });
  }
}

TEST(SyncBatchNorm, WithoutItRanksTrainAsRecordedWithRankZerosBuffers) {
  run_ranks(2, [](Communicator& c) { testing::train_recorded_cnn(c, false); });
}

void expect_near(const Array& found, const Array& expected, double tolerance,
                 const std::string& what) {
  ASSERT_EQ(found.shape(), expected.shape()) << what;
  const auto a = found.to_vector<double>(), b = expected.to_vector<double>();
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_NEAR(a[i], b[i], tolerance * std::max(1.0, std::abs(b[i]))) << what << " " << i;
  }
}

// What a layer makes of a batch in two passes: the gradients of sum(y * seed), and those of the sum
// of the squares of its input gradient.
struct Passes {
  std::map<std::string, Array> of_samples;  // [batch, …]
  std::map<std::string, Array> sums;        // of which each rank has a part
  std::map<std::string, Array> statistics;  // the same on all ranks
};

template <class Norm>
Passes pass(Norm& norm, const Array& batch, const Array& seed) {
  Passes result;
  const std::vector<Parameter> parameters = norm.parameters();
  for (int i = 0; i < 2; ++i) {
    const Tensor x = Tensor::variable(batch);
    const Tensor y = norm(x);
    std::vector<Tensor> inputs{x};
    inputs.insert(inputs.end(), parameters.begin(), parameters.end());
    const auto add = [&](const std::string& order, const std::vector<Tensor>& gradients) {
      result.of_samples[order + " of x"] = gradients[0].value();
      for (size_t p = 1; p < inputs.size(); ++p) {
        result.sums[concat({order, " of parameter ", p})] = gradients[p].value();
      }
    };
    const Tensor total = sum(tanh(y) * Tensor(seed));
    add("fused gradient", grad({&total, 1}, inputs, {}, {.retain_graph = true}));
    const auto first = grad({&total, 1}, inputs, {}, {.create_graph = true});
    add("recorded gradient", first);
    const Tensor squares = sum(square(first[0]) * Tensor(seed));
    // The bias plays no part in it.
    if (inputs.size() == 3) inputs.pop_back();
    add("second gradient", grad({&squares, 1}, inputs));
    result.of_samples["y"] = y.value();
  }
  for (const auto& [name, buffer] : norm.named_buffers()) result.statistics[name] = buffer.array();
  return result;
}

// The ranks' batches, of these sizes, against one rank with all samples.
template <class Norm>
void expect_as_one(const std::vector<int64_t>& sizes, const Shape& sample,
                   const BatchNormLayerOptions& options, bool channels_last = false) {
  int64_t all = 0;
  for (const int64_t size : sizes) all += size;
  Shape shape{all};
  for (const int64_t dim : sample) shape.append(dim);
  Array x = random_array(shape, 1, -2, 5);
  if (channels_last) {
    const std::vector<int> there{0, 2, 3, 1}, back{0, 3, 1, 2};
    x = kernels::copy(x.permute(there)).permute(back);
  }
  const Array seed = random_array(shape, 2);
  const auto make = [&] {
    Norm norm(sample[0], options);
    norm.place({.dtype = DType::f64});
    for (Parameter& parameter : norm.parameters()) {
      kernels::copy_into(random_array(parameter.shape(), 3, 0.5, 2), parameter.tensor().value());
    }
    return norm;
  };
  Norm alone = make();
  const Passes expected = pass(alone, x, seed);
  std::mutex mutex;
  std::map<std::string, Array> sums;
  run_ranks(static_cast<int>(sizes.size()), [&](Communicator& communicator) {
    const int rank = communicator.rank();
    int64_t first = 0;
    for (int before = 0; before < rank; ++before) first += sizes[before];
    Norm norm = make();
    synchronize_batch_norm(norm, communicator);
    const Passes found =
        pass(norm, x.narrow(0, first, sizes[rank]), seed.narrow(0, first, sizes[rank]));
    const std::lock_guard lock(mutex);
    for (const auto& [name, array] : found.of_samples) {
      const Array mine = expected.of_samples.at(name).narrow(0, first, sizes[rank]);
      expect_near(array, mine, 1e-12, concat({name, " on rank ", rank}));
    }
    ASSERT_EQ(found.statistics.size(), expected.statistics.size());
    for (const auto& [name, array] : found.statistics) {
      expect_near(array, expected.statistics.at(name), 1e-12, concat({name, " on rank ", rank}));
    }
    for (const auto& [name, array] : found.sums) {
      Array& total = sums[name];
      total = total ? (Tensor(total) + Tensor(array)).value() : array;
    }
  });
  ASSERT_EQ(sums.size(), expected.sums.size());
  for (const auto& [name, array] : sums) expect_near(array, expected.sums.at(name), 1e-12, name);
}

TEST(SyncBatchNorm, GradientsAreThoseOfOneBatch) {
  const Shape image{3, 2, 4};
  for (const std::vector<int64_t>& sizes :
       {std::vector<int64_t>{4, 4}, {5, 2}, {3, 4, 2}, {4, 0, 1}, {0, 6}}) {
    SCOPED_TRACE(::testing::PrintToString(sizes));
    expect_as_one<BatchNorm2d>(sizes, image, {});
    expect_as_one<BatchNorm2d>(sizes, image, {}, true);
    expect_as_one<BatchNorm1d>(sizes, {5}, {.momentum = {}});
    expect_as_one<BatchNorm1d>(sizes, {2, 3}, {.affine = false});
    expect_as_one<BatchNorm3d>(sizes, {2, 2, 1, 3}, {.track_running_stats = false});
  }
}

// In one op with what follows.
template <bool kResidual>
struct NormRelu : BatchNorm2d {
  using BatchNorm2d::BatchNorm2d;
  Tensor operator()(const Tensor& x) {
    return BatchNorm2d::operator()(x, Activation::relu, kResidual ? x * 0.5 : Tensor());
  }
};

TEST(SyncBatchNorm, GradientsWithAReluAndAResidual) {
  for (const std::vector<int64_t>& sizes : {std::vector<int64_t>{5, 2}, {4, 0, 1}}) {
    SCOPED_TRACE(::testing::PrintToString(sizes));
    for (const bool channels_last : {false, true}) {
      expect_as_one<NormRelu<false>>(sizes, {3, 2, 4}, {}, channels_last);
      expect_as_one<NormRelu<true>>(sizes, {3, 2, 4}, {}, channels_last);
    }
  }
}

TEST(SyncBatchNorm, OneRankIsAGroup) { expect_as_one<BatchNorm2d>({6}, {3, 2, 4}, {}); }

// One value a channel on each rank has a variance over the ranks.
TEST(SyncBatchNorm, OneSampleARank) { expect_as_one<BatchNorm1d>({1, 1, 1}, {5}, {}); }

TEST(SyncBatchNorm, EvaluationDoesNotCommunicate) {
  run_ranks(2, [](Communicator& communicator) {
    for (const bool tracks : {true, false}) {
      BatchNorm1d alone(3, {.track_running_stats = tracks}), norm(3, alone.options);
      synchronize_batch_norm(norm, communicator);
      norm.eval();
      alone.eval();
      const Tensor x(kernels::cast(random_array({5, 3}, 1), DType::f32));
      if (communicator.rank() == 0) expect_near(norm(x).value(), alone(x).value(), 0, "y");
      EXPECT_EQ(communicator.collectives_started(), 0u);
    }
  });
}

// A far mean and a small variance, which the sums of squares would lose in single precision.
TEST(SyncBatchNorm, SmallVarianceAroundALargeMean) {
  const Array all = kernels::cast(random_array({600, 2}, 1, 1e4 - 0.1, 1e4 + 0.1), DType::f32);
  const Array exact = kernels::cast(all, DType::f64);
  const Array variance = var(Tensor(exact), {0}).value(), mean = lockstep::mean(exact, {0}).value();
  run_ranks(3, [&](Communicator& communicator) {
    const int64_t firsts[] = {0, 100, 350}, counts[] = {100, 250, 250};
    BatchNorm1d norm(2, {.momentum = 1});
    synchronize_batch_norm(norm, communicator);
    const int rank = communicator.rank();
    const Tensor y = norm(Tensor(all.narrow(0, firsts[rank], counts[rank])));
    expect_near(norm.running_mean.array(), mean, 1e-7, "mean");
    expect_near((Tensor(norm.running_var.array()).to(DType::f64) / Tensor(variance)).value(),
                Array::full({2}, 1, DType::f64), 0.01, "variance over its expectation");
    EXPECT_LT(amax(abs(y)).item(), 2);  // uniform: at most sqrt(3) deviations
  });
}

TEST(SyncBatchNorm, HalfPrecisionInput) {
  run_ranks(2, [](Communicator& communicator) {
    BatchNorm1d norm(3);
    synchronize_batch_norm(norm, communicator);
    const uint64_t seed = 1 + static_cast<uint64_t>(communicator.rank());
    const Tensor x = Tensor::variable(kernels::cast(random_array({64, 3}, seed), DType::bf16));
    const Tensor y = norm(x);
    EXPECT_EQ(y.dtype(), DType::bf16);
    const Tensor total = sum(square(y));
    for (const bool recorded : {false, true}) {
      const auto dx =
          grad({&total, 1}, {&x, 1}, {}, {.create_graph = recorded, .retain_graph = true})[0];
      EXPECT_EQ(dx.dtype(), DType::bf16);
    }
  });
}

TEST(SyncBatchNorm, RecomputedBatchesCountOnce) {
  run_ranks(2, [](Communicator& communicator) {
    const auto gradient = [&](bool recompute) {
      BatchNorm1d norm(3);
      norm.place({.dtype = DType::f64});
      synchronize_batch_norm(norm, communicator);
      const uint64_t seed = 1 + static_cast<uint64_t>(communicator.rank());
      const Tensor x = Tensor::variable(random_array({4, 3}, seed));
      const auto f = [&](const Tensor& t) { return tanh(norm(t)); };
      sum(recompute ? checkpoint(f, x) : f(x)).backward();
      EXPECT_EQ(norm.num_batches_tracked.array().item(), 1);
      return x.grad().value();
    };
    expect_near(gradient(true), gradient(false), 1e-14, "gradient");
  });
}

struct Net : Layer<Net> {
  Linear in{4, 6};
  BatchNorm1d norm{6};
  Linear middle{6, 6};
  BatchNorm1d second{6};
  Linear out{6, 2};
  Parameter spare{{1}, Initializer::ones()};  // used by tests
  bool swapped = false;
  Tensor forward(const Tensor& x) {
    const Tensor hidden = tanh(swapped ? second(in(x)) : norm(in(x)));
    return out(tanh(swapped ? norm(middle(hidden)) : second(middle(hidden))));
  }
  void visit(Visitor& v) override {
    v("in", in);
    v("norm", norm);
    v("middle", middle);
    v("second", second);
    v("out", out);
    v("spare", spare);
  }
};

const DataParallelOptions kSmallBuckets{
    .bucket_sizes = {.first_mb = 1e-4, .other_mb = 1e-4, .last_mb = 1e-4},
    .placement = {.dtype = DType::f64, .seed = 5}};

// Five steps of micro-batches, of each of which a rank has samples [first, first + count) of 6.
std::vector<Array> train(Communicator& communicator, int64_t first, int64_t count) {
  Net net;
  synchronize_batch_norm(net, communicator);
  DistributedDataParallel ddp(net, communicator, kSmallBuckets);
  optim::SGD optimizer(net.parameters(), {.learning_rate = 0.1, .momentum = 0.9});
  for (int step = 0; step < 5; ++step) {
    optimizer.zero_grad();
    for (int micro = 0; micro < 2; ++micro) {
      std::optional<DistributedDataParallel::NoSync> no_sync;
      if (micro == 0) no_sync.emplace(ddp);
      const Array all = random_array({6, 4}, 10 + 2 * step + micro);
      const Tensor y = net(Tensor(all.narrow(0, first, count)));
      (sum(square(y)) * (communicator.size() / 6.0)).backward();
    }
    ddp.finish();
    optimizer.step();
  }
  std::vector<Array> state;
  for (const NamedArray& named : net.state()) state.push_back(named.array);
  return state;
}

TEST(SyncBatchNorm, AccumulatesAndTakesARankWithoutSamples) {
  const auto alone = make_single_communicator();
  const std::vector<Array> expected = train(*alone, 0, 6);
  run_ranks(3, [&](Communicator& communicator) {
    const int64_t firsts[] = {0, 4, 4}, counts[] = {4, 0, 2};
    const int rank = communicator.rank();
    const std::vector<Array> found = train(communicator, firsts[rank], counts[rank]);
    for (size_t i = 0; i < found.size(); ++i) {
      expect_near(found[i], expected[i], 1e-12, concat({"state ", i, " on rank ", rank}));
    }
  });
}

TEST(SyncBatchNorm, EveryNormOfAModule) {
  const auto communicator = make_single_communicator();
  ResNet model = resnet50({.num_classes = 2});
  EXPECT_FALSE(synchronizes_batch_norm(model));
  synchronize_batch_norm(model, *communicator);
  EXPECT_TRUE(synchronizes_batch_norm(model));
  int shared = 0;
  model.apply([&](Module& part) { shared += part.type_name() == "SyncBatchNorm" ? 1 : 0; });
  EXPECT_EQ(shared, 53);
}

// Every rank's error; ranks that ended well are an expectation that failed.
std::vector<std::string> errors_of(int ranks, const std::function<void(Communicator&)>& body) {
  std::mutex mutex;
  std::vector<std::string> errors;
  run_ranks(ranks, [&](Communicator& communicator) {
    try {
      body(communicator);
      ADD_FAILURE() << "rank " << communicator.rank() << " ended well";
    } catch (const Error& error) {
      const std::lock_guard lock(mutex);
      errors.push_back(error.what());
    }
  });
  return errors;
}

TEST(SyncBatchNormErrors, OneValueOnAllRanksTogether) {
  const auto errors = errors_of(2, [](Communicator& communicator) {
    BatchNorm1d norm(3);
    synchronize_batch_norm(norm, communicator);
    norm(Tensor(Array::zeros({communicator.rank(), 3}, DType::f32)));
  });
  for (const std::string& error : errors) {
    EXPECT_THAT(error, ::testing::HasSubstr("expected more than one value a channel"));
  }
}

TEST(SyncBatchNormErrors, RanksThatRunDifferentLayers) {
  const auto errors = errors_of(2, [](Communicator& communicator) {
    Net net;
    net.swapped = communicator.rank() == 1;
    synchronize_batch_norm(net, communicator);
    net(Tensor(Array::zeros({3, 4}, DType::f32)));
  });
  for (const std::string& error : errors) {
    EXPECT_THAT(error, ::testing::HasSubstr("ranks called different collectives"));
    EXPECT_THAT(error, ::testing::HasSubstr("\"batch statistics of norm\""));
    EXPECT_THAT(error, ::testing::HasSubstr("\"batch statistics of second\""));
  }
}

// The rank that leaves a parameter out still waits for it when the other sends its bucket.
TEST(SyncBatchNormErrors, RanksThatUsedDifferentParameters) {
  const auto errors = errors_of(2, [](Communicator& communicator) {
    Net net;
    synchronize_batch_norm(net, communicator);
    DistributedDataParallel ddp(net, communicator, kSmallBuckets);
    for (int step = 0; step < 3; ++step) {
      const Tensor y = net(Tensor(random_array({3, 4}, static_cast<uint64_t>(step))));
      const bool skips = step == 1 && communicator.rank() == 1;
      sum(skips ? y : y * net.spare).backward();
      ddp.finish();
    }
  });
  for (const std::string& error : errors) {
    EXPECT_THAT(error, ::testing::HasSubstr("ranks called different collectives"));
    EXPECT_THAT(error, ::testing::HasSubstr("\"batch statistics of second\""));
    EXPECT_THAT(error, ::testing::HasSubstr("\"gradients\""));
  }
}

}  // namespace
}  // namespace lockstep::nn
