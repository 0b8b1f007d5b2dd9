#pragma once

#include <algorithm>
#include <cmath>

#include "lockstep/nn/optim.h"
#include "lockstep/nn/parallel/data_parallel.h"
#include "lockstep/nn/parallel/sync_batch_norm.h"
#include "support/recorded_training.h"

namespace lockstep::testing {

// Trains cnn_bn data-parallel, with the batch statistics of all ranks or with each one's own (then
// two ranks). Throws Error where a loss, a parameter or a buffer is not the recorded one.
inline void train_recorded_cnn(Communicator& communicator, bool synchronized) {
  constexpr double kTolerance = 1e-10;
  const auto check = [](double found, double expected, const auto&... where) {
    LOCKSTEP_CHECK(std::abs(found - expected) <= kTolerance * std::max(1.0, std::abs(expected)),
                   where..., ": ", found, ", expected ", expected, ", off by ", found - expected);
  };
  const Recording run("cnn_bn");
  const char* kind = synchronized ? "synchronized" : "per_rank";
  const Json& expected = run.expected.at(kind);
  Cnn model;
  model.place({.dtype = DType::f64});
  model.load_state(run.folder / "initial.safetensors");
  if (synchronized) nn::synchronize_batch_norm(model, communicator);
  // So small that buckets leave between the norms.
  nn::DistributedDataParallel ddp(
      model, communicator, {.bucket_sizes = {.first_mb = 1e-4, .other_mb = 1e-4, .last_mb = 1e-4}});
  optim::SGD optimizer(model.parameters(), {.learning_rate = run.attribute<double>("lr"),
                                            .momentum = run.attribute<double>("momentum"),
                                            .weight_decay = run.attribute<double>("weight_decay")});
  const int rank = communicator.rank(), ranks = communicator.size();
  const auto batch = run.attribute<int64_t>("batch_size"), share = batch / ranks;
  for (int64_t step = 0; step < run.attribute<int64_t>("steps"); ++step) {
    const int64_t first = step * batch + rank * share;
    optimizer.zero_grad();
    const Tensor loss = cross_entropy(model(run.rows("images", first, share, DType::f64)),
                                      run.rows("labels", first, share, DType::i64));
    loss.backward();
    const nn::StepReport total = ddp.finish({.loss_sum = loss.item()});
    optimizer.step();
    check(total.loss_sum / ranks, expected.at("loss").at(step), kind, ": loss of step ", step);
    if (synchronized) continue;
    check(loss.item(), expected.at("rank_loss").at(step).at(rank), kind, ": loss of rank ", rank,
          " in step ", step);
  }
  const Tensors final = run.read(std::string("final_") + kind);
  for (const auto& [name, array] : model.state()) {
    const auto values = array.to_vector<double>(), wanted = final.at(name).to_vector<double>();
    LOCKSTEP_CHECK(values.size() == wanted.size(), kind, ": ", name, " has ", values.size(),
                   " elements, expected ", wanted.size());
    for (size_t i = 0; i < values.size(); ++i) {
      check(values[i], wanted[i], kind, ": ", name, "[", i, "] on rank ", rank);
    }
  }
}

}  // namespace lockstep::testing
