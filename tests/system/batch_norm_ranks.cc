// Trains a small network whose batch norms share their statistics, on images that are a function of
// their position: what batch_norm_test.py starts. Rank 0 prints the model's state.
#include <cmath>
#include <cstdio>

#include "lockstep/launcher/flags/flags.h"
#include "lockstep/launcher/train/program.h"
#include "lockstep/nn/layers.h"
#include "lockstep/nn/parallel/sync_batch_norm.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace {

using namespace lockstep;

constexpr int64_t kClasses = 3;
constexpr int64_t kSide = 5;

struct Net : nn::Layer<Net> {
  nn::Conv2d image{2, 4, {3}, {.padding = {1}}};
  nn::BatchNorm2d norm{4};
  nn::MaxPool2d pool{{2}};
  nn::Linear hidden{4 * 2 * 2, 6};
  nn::BatchNorm1d second{6};
  nn::Linear out{6, kClasses};
  Tensor forward(const Tensor& x) {
    const Tensor features = pool(relu(norm(image(x))));
    return out(tanh(second(hidden(flatten(features, 1)))));
  }
  void visit(nn::Visitor& v) override {
    v("image", image);
    v("norm", norm);
    v("hidden", hidden);
    v("second", second);
    v("out", out);
  }
};

class Images final : public train::Task {
 public:
  Images(Communicator& communicator, int64_t samples) : samples_(samples) {
    nn::synchronize_batch_norm(net_, communicator);
  }

  nn::Module& module() override { return net_; }
  int64_t samples() const override { return samples_; }
  void load(int64_t first, int64_t count) override {
    inputs_ = Array::empty({count, 2, kSide, kSide}, DType::f64);
    classes_ = Array::empty({count}, DType::i64);
    const int64_t values = 2 * kSide * kSide;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t sample = (first + i) % samples_;
      classes_.data<int64_t>()[i] = sample % kClasses;
      for (int64_t k = 0; k < values; ++k) {
        inputs_.data<double>()[i * values + k] = std::sin(static_cast<double>(7 * sample + k * k));
      }
    }
  }
  Tensor loss() override { return cross_entropy(net_(Tensor(inputs_)), Tensor(classes_)); }

 private:
  Net net_;
  int64_t samples_;
  Array inputs_, classes_;
};

int run(train::Session session, int64_t samples) {
  Images task(session.communicator, samples);
  train::Trainer trainer(session, task);
  const int code = train::exit_code(trainer.run());
  if (session.communicator.rank() != 0) return code;
  for (const auto& [name, array] : task.module().state()) {
    std::printf("%s", name.c_str());
    for (const double value : kernels::cast(array, DType::f64).to_vector<double>()) {
      std::printf(" %.17g", value);
    }
    std::printf("\n");
  }
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  int64_t samples = 10;
  train::Program program{.name = "batch_norm_ranks",
                         .summary = "Trains a network with batch norm."};
  program.options.precision = "f64";
  // Adam would make steps of the rounding errors that are the gradient of a bias before batch norm.
  program.options.optimizer = "sgd";
  program.options.learning_rate = 0.05;
  program.options.quiet = true;
  program.add_flags = [&](flags::Command& command) {
    command.group("Data");
    command.add({.name = "--samples", .help = "of an epoch", .minimum = 1}, samples);
  };
  program.body = [&](train::Session session) { return run(session, samples); };
  return program.run(argc, argv);
}
