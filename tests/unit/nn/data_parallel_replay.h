#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/nn/layers.h"
#include "lockstep/nn/optim.h"
#include "lockstep/nn/parallel/data_parallel.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "support/test_data.h"
#include "support/thread_ranks.h"

// Training that was recorded from PyTorch's DistributedDataParallel (tests/data/ddp), made again by
// ours with ranks as threads.
namespace lockstep::nn::replay {

using Tensors = std::map<std::string, Array>;

struct Recording {
  Tensors tensors;
  nlohmann::json optimizer;

  explicit Recording(const std::string& name) {
    const auto path = lockstep::testing::test_data("ddp/" + name + ".safetensors");
    tensors = lockstep::testing::read_tensors(path);
    const auto file = files::SafetensorsFile::open(path);
    optimizer = nlohmann::json::parse(file->metadata().at("optimizer"));
  }
  // Those whose names begin so, under the rest of their names.
  Tensors under(const std::string& prefix) const {
    Tensors result;
    for (const auto& [name, array] : tensors) {
      if (name.starts_with(prefix)) result[name.substr(prefix.size())] = array;
    }
    return result;
  }
  int64_t steps() const { return under("inputs.").begin()->second.dim(0); }
};

// How a recording is made again.
struct Plan {
  std::vector<int64_t> samples;  // of each rank
  bool weigh = false;            // each rank by its samples
  // As PyTorch programs do it: no_sync in all of a step's passes but the last, data parallelism
  // made anew where other parameters are trained, a critic frozen while the generator learns.
  bool as_pytorch = false;
  BucketSizes bucket_sizes = {};
  ShardLevel shard = ShardLevel::none;
};

// What one rank made of it.
struct Outcome {
  std::vector<double> losses;                               // of each step
  std::map<std::string, std::vector<double>> has_gradient;  // in each step: 1 or 0
  std::map<std::string, std::vector<double>> final;
};

// A rank on its way through a recording.
struct Rank {
  const Recording& recording;
  const Plan& plan;
  Communicator& communicator;
  Outcome outcome = {};

  // Rank 0 has the recorded initial values, the others get theirs from it.
  void place(Module& module) const {
    module.place({.dtype = DType::f64, .seed = static_cast<uint64_t>(communicator.rank())});
    if (communicator.rank() == 0) module.load_state(recording.under("initial."));
  }
  std::unique_ptr<DistributedDataParallel> wrap(Module& module) const {
    return std::make_unique<DistributedDataParallel>(
        module, communicator,
        DataParallelOptions{.bucket_sizes = plan.bucket_sizes, .shard = plan.shard});
  }
  std::unique_ptr<optim::Optimizer> optimizer(Module& module) const {
    const nlohmann::json& options = recording.optimizer;
    if (options.at("name") == "SGD") {
      return std::make_unique<optim::SGD>(
          module.parameters(), optim::SGDOptions{.learning_rate = options.at("lr"),
                                                 .momentum = options.at("momentum"),
                                                 .weight_decay = options.at("weight_decay")});
    }
    return std::make_unique<optim::Adam>(
        module.parameters(), optim::AdamOptions{.learning_rate = options.at("lr"),
                                                .beta1 = options.at("betas").at(0),
                                                .beta2 = options.at("betas").at(1),
                                                .weight_decay = options.at("weight_decay")});
  }
  void end_step(Module& module) {
    for (const auto& [name, parameter] : module.named_parameters()) {
      outcome.has_gradient[name].push_back(parameter.grad() ? 1 : 0);
    }
  }
  Outcome end(Module& module) {
    for (const auto& [name, parameter] : module.named_parameters()) {
      outcome.final[name] = parameter.tensor().to_vector<double>();
    }
    return outcome;
  }
};

// A rank's part of a step: its rows of the batch.
struct Share {
  Rank& rank;
  int64_t step, first, count;

  static Share of(Rank& rank, int64_t step) {
    const auto& samples = rank.plan.samples;
    const int index = rank.communicator.rank();
    rank.outcome.losses.push_back(0);
    return {rank, step, std::accumulate(samples.begin(), samples.begin() + index, int64_t{0}),
            samples[static_cast<size_t>(index)]};
  }
  int index() const { return rank.communicator.rank(); }
  Share part(int64_t i, int64_t parts) const {
    return {rank, step, first + i * (count / parts), count / parts};
  }
  Tensor operator[](const std::string& name) const {
    const Array all = rank.recording.tensors.at("inputs." + name);
    const Array rows = all.select(0, step).narrow(0, first, count);
    return Tensor(rows.dtype() == DType::f32 ? kernels::cast(rows, DType::f64) : rows);
  }
  // Of a step's passes only the last reduces, where the plan says so.
  void backward(DistributedDataParallel& ddp, const Tensor& loss, bool last = true) const {
    std::optional<DistributedDataParallel::NoSync> no_sync;
    if (!last && rank.plan.as_pytorch) no_sync.emplace(ddp);
    rank.outcome.losses.back() += loss.item();
    loss.backward();
  }
};

// A part of a step of a model with one optimizer.
struct Pass : Share {
  DistributedDataParallel& ddp;
  void backward(const Tensor& loss, bool last = true) const { Share::backward(ddp, loss, last); }
};

template <class Model>
struct Options {
  std::function<void(Model&, int64_t step)> prepare = [](Model&, int64_t) {};
  int64_t zero_grad_every = 1;
  double clip_norm = 0;        // 0: none
  int64_t wrap_again_at = -1;  // step
  // Where a rank's data has ended it makes no pass.
  std::function<int64_t(int rank)> steps_with_data = [](int) { return 1000; };
  double weight_without_data = 1;
};

// `passes` makes a step's backward passes.
template <class Model>
Outcome train(Rank& rank, void (*passes)(Model&, const Pass&), const Options<Model>& options) {
  Model model;
  rank.place(model);
  options.prepare(model, 0);
  auto ddp = rank.wrap(model);
  const auto optimizer = rank.optimizer(model);
  for (int64_t step = 0; step < rank.recording.steps(); ++step) {
    options.prepare(model, step);
    if (rank.plan.as_pytorch && step == options.wrap_again_at) {
      ddp.reset();
      ddp = rank.wrap(model);
    }
    if (step % options.zero_grad_every == 0) optimizer->zero_grad();
    const Share share = Share::of(rank, step);
    if (rank.plan.weigh) ddp->set_weight(static_cast<double>(share.count));
    if (step >= options.steps_with_data(share.index())) {
      ddp->set_weight(options.weight_without_data);
    } else if (share.count > 0) {
      passes(model, {share, *ddp});
    }
    ddp->finish();
    if (options.clip_norm > 0) optim::clip_grad_norm(model.parameters(), options.clip_norm);
    optimizer->step();
    rank.end_step(model);
  }
  return rank.end(model);
}

// Relative to the largest value of all.
inline void expect_close(const std::vector<double>& found, const std::vector<double>& expected,
                         const std::string& what) {
  ASSERT_EQ(found.size(), expected.size()) << what;
  double largest = 0;
  for (double value : expected) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(found[i], expected[i], 1e-10 * largest) << what << ", element " << i;
  }
}

inline void expect_recorded(const Outcome& found, const Recording& recording,
                            const std::string& run) {
  const Tensors final = recording.under(run + ".final.");
  ASSERT_EQ(found.final.size(), final.size());
  for (const auto& [name, values] : final) {
    expect_close(found.final.at(name), values.to_vector<double>(), name);
    EXPECT_EQ(found.has_gradient.at(name),
              recording.tensors.at(run + ".has_gradient." + name).to_vector<double>())
        << name;
  }
}

// Makes a recorded run again on as many ranks as the plan has shares: the losses of each step,
// which parameters have a gradient in it, and the final parameters are the recorded ones. `run` is
// "2_ranks", …, or "whole_batch": that is one process, whose loss is the mean over the samples.
inline void expect_recorded(const Recording& recording, const std::string& run, const Plan& plan,
                            const std::function<Outcome(Rank&)>& train) {
  const auto ranks = static_cast<int>(plan.samples.size());
  std::vector<Outcome> found(plan.samples.size());
  lockstep::testing::run_ranks(ranks, [&](Communicator& communicator) {
    Rank rank{recording, plan, communicator};
    found[static_cast<size_t>(communicator.rank())] = train(rank);
  });
  const Array losses = recording.tensors.at(run + ".loss");  // [step, rank]
  std::vector<double> mean(static_cast<size_t>(losses.dim(0)));
  for (size_t rank = 0; rank < found.size(); ++rank) {
    SCOPED_TRACE(concat({"rank ", rank, " of ", ranks}));
    expect_recorded(found[rank], recording, run);
    if (run != "whole_batch") {
      const Array own = losses.select(1, static_cast<int64_t>(rank));
      expect_close(found[rank].losses, Tensor(own).to_vector<double>(), "loss");
    }
    const double all =
        static_cast<double>(std::accumulate(plan.samples.begin(), plan.samples.end(), int64_t{0}));
    for (size_t step = 0; step < mean.size(); ++step) {
      mean[step] += static_cast<double>(plan.samples[rank]) / all * found[rank].losses[step];
    }
  }
  if (run == "whole_batch") expect_close(mean, losses.to_vector<double>(), "loss");
}

}  // namespace lockstep::nn::replay
