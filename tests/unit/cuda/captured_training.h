#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "lockstep/autograd/ops.h"
#include "lockstep/nn/captured_passes.h"
#include "lockstep/nn/layers.h"
#include "lockstep/nn/optim.h"
#include "support/device_check.h"

// A small training whose passes are captured, or not, to be compared with.
namespace lockstep::test {

using nn::CapturedPasses;

struct Net : nn::Layer<Net> {
  nn::Linear hidden{6, 16};
  nn::BatchNorm1d norm{16};
  nn::Dropout dropout{0.3};
  nn::Linear output{16, 4};

  Tensor forward(const Tensor& x) { return output(dropout(gelu(norm(hidden(x))))); }
  void visit(nn::Visitor& v) override {
    v("hidden", hidden);
    v("norm", norm);
    v("dropout", dropout);
    v("output", output);
  }
};

// Trains on batches that differ, and drops units.
class Training {
 public:
  explicit Training(bool captures, LowPrecisionCopies* copies = nullptr)
      : copies_(copies), passes_(net_, backend_of(device()), copies) {
    if (!captures) passes_.refuse("compared with");
  }

  double step(int64_t samples = 8) {
    optimizer_.zero_grad();
    ++steps_;
    double total = 0;
    for (int pass = 0; pass < 2; ++pass) {  // the second adds to the gradients of the first
      context().random = {
          .seed = 3, .step = steps_, .first_sample = static_cast<uint32_t>(8 * pass)};
      const Array loss = passes_.run(
          2 * samples + pass, 0.5, [&] { load(samples, pass); }, [&] { return this->loss(); });
      total += loss.item();
    }
    optimizer_.step();
    return total;
  }
  std::vector<double> steps(int count) {
    std::vector<double> losses;
    for (int i = 0; i < count; ++i) losses.push_back(step());
    return losses;
  }

  CapturedPasses& passes() { return passes_; }
  Net& net() { return net_; }
  int64_t largest_label = 3;
  bool looks_at_the_loss = false;
  std::function<void()> meanwhile;  // in load() and while loss() is queued
  int64_t calls = 0;                // of loss()

 private:
  static Net& placed(Net& net) {
    net.place({.device = device()});
    return net;
  }
  void load(int64_t samples, int pass) {
    if (meanwhile) meanwhile();
    const uint64_t seed = 10 * steps_ + static_cast<uint64_t>(pass);
    const Array values = test::values({samples, 6}, DType::f32, -1, 1, seed);
    std::vector<int64_t> labels(static_cast<size_t>(samples));
    for (size_t i = 0; i < labels.size(); ++i) {
      labels[i] = static_cast<int64_t>((seed + i) % static_cast<uint64_t>(largest_label + 1));
    }
    inputs_ = Tensor(values).to(device());
    labels_ = Array::from(labels, {samples}, device());
  }
  Tensor loss() {
    ++calls;
    std::optional<Autocast> autocast;
    if (copies_ != nullptr) autocast.emplace(*copies_);
    const Tensor hidden = net_(inputs_);
    if (meanwhile) meanwhile();
    const Tensor result = cross_entropy(hidden, labels_);
    if (looks_at_the_loss) last_ = result.item();
    return result;
  }

  Net net_;
  LowPrecisionCopies* copies_;
  optim::AdamW optimizer_{placed(net_).parameters(), {.learning_rate = 0.05}};
  CapturedPasses passes_;
  Tensor inputs_, labels_;
  uint32_t steps_ = 0;
  double last_ = 0;
};

}  // namespace lockstep::test
