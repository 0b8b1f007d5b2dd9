// Training steps of models that are no transformers, on data that lies on the device: prints one
// JSON line. Under a launcher data-parallel, each rank with a batch of its own. PyTorch's side is
// tests/benchmark/model_step.py.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "lockstep/autograd/ops.h"
#include "lockstep/collectives/world.h"
#include "lockstep/launcher/flags/flags.h"
#include "lockstep/launcher/train/device.h"
#include "lockstep/nn/captured_passes.h"
#include "lockstep/nn/layers.h"
#include "lockstep/nn/models/resnet.h"
#include "lockstep/nn/optim.h"
#include "lockstep/nn/parallel/data_parallel.h"

namespace lockstep::benchmark {
namespace {

using Clock = std::chrono::steady_clock;

struct Mlp : nn::Layer<Mlp> {
  nn::Linear first{784, 512}, second{512, 512}, third{512, 10};
  Tensor forward(const Tensor& x) {
    return third(second(first(x, nn::Activation::relu), nn::Activation::relu));
  }
  void visit(nn::Visitor& v) override {
    v("first", first);
    v("second", second);
    v("third", third);
  }
};

struct Flags {
  std::string model = "mlp";
  std::string device = "cuda";
  std::string precision = "f32";
  int64_t batch = 64;
  int64_t rounds = 5;  // of `steps` steps, at the end of which the device is waited for
  int64_t steps = 100;
  bool no_graph = false;

  Tensor inputs(Device where) const {
    if (model == "mlp") return randn({batch, 784}, {.device = where});
    return permute(randn({batch, 224, 224, 3}, {.device = where}), {0, 3, 1, 2});
  }
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

template <class Model>
void train_model(Model& model, int64_t classes, const Flags& flags, Communicator& communicator) {
  const Clock::time_point begin = Clock::now();
  const Device where = communicator.device();
  Backend& backend = backend_of(where);
  model.place({.device = where});
  std::optional<LowPrecisionCopies> copies;
  if (flags.precision == "bf16") copies.emplace(DType::bf16);
  std::optional<nn::DistributedDataParallel> ddp;
  if (communicator.size() > 1) {
    ddp.emplace(model, communicator,
                nn::DataParallelOptions{.copies = copies ? &*copies : nullptr});
  }
  optim::Adam optimizer(model.parameters(), {.learning_rate = 1e-3});
  if (copies) optimizer.set_copies(&*copies);
  nn::CapturedPasses passes(model, backend, copies ? &*copies : nullptr);
  if (flags.no_graph) passes.refuse("--no-graph");
  manual_seed(1 + static_cast<uint64_t>(communicator.rank()));  // each rank's own batch
  const Tensor inputs = flags.inputs(where);
  const Tensor labels = randint(classes, {flags.batch}, {.device = where});
  const auto loss = [&] {
    std::optional<Autocast> autocast;
    if (copies) autocast.emplace(*copies);
    return cross_entropy(model(inputs), labels);
  };
  Array last;
  const auto step = [&] {
    optimizer.zero_grad();
    last = passes.run(
        0, 1, [] {}, loss);
    if (ddp) ddp->finish();
    optimizer.step();
  };
  step();
  const double first_loss = last.item(), first = seconds_since(begin);
  for (int64_t i = 0; i < 10; ++i) step();
  std::vector<double> rounds;
  for (int64_t round = 0; round < flags.rounds; ++round) {
    backend.synchronize();
    const Clock::time_point start = Clock::now();
    for (int64_t i = 0; i < flags.steps; ++i) step();
    backend.synchronize();
    rounds.push_back(seconds_since(start) / static_cast<double>(flags.steps));
  }
  std::sort(rounds.begin(), rounds.end());
  if (communicator.rank() != 0) return;
  std::printf("%s\n",
              nlohmann::ordered_json{{"model", flags.model},
                                     {"batch", flags.batch},
                                     {"ranks", communicator.size()},
                                     {"precision", flags.precision},
                                     {"step_seconds", rounds[rounds.size() / 2]},
                                     {"first_step_seconds", first},
                                     {"loss", {first_loss, last.item()}},
                                     {"replays", passes.replays()},
                                     {"refusal", passes.refusal()},
                                     {"memory_bytes", backend.statistics().peak_in_use_bytes}}
                  .dump()
                  .c_str());
}

int run(int argc, char** argv) {
  Flags flags;
  flags::Command command("model_benchmark", "Times training steps on data of the device.");
  command.group("Model");
  command.add({.name = "--model", .help = "which", .choices = {"mlp", "resnet50"}}, flags.model);
  command.add({.name = "--device", .help = "where", .choices = {"cuda", "cpu"}}, flags.device);
  command.add({.name = "--precision", .help = "in what", .choices = {"f32", "bf16"}},
              flags.precision);
  command.add({.name = "--batch", .help = "samples", .value = "N", .minimum = 1}, flags.batch);
  command.add({.name = "--rounds", .help = "the median counts", .value = "N", .minimum = 1},
              flags.rounds);
  command.add({.name = "--steps", .help = "of a round", .value = "N", .minimum = 1}, flags.steps);
  command.add({.name = "--no-graph", .help = "passes as the host queues them"}, flags.no_graph);
  if (const auto code = command.parse_or_print(argc, argv)) return *code;
  const World world = World::from_env();
  const auto communicator = make_communicator(world, train::choose_device(flags.device, world));
  if (flags.model == "mlp") {
    Mlp model;
    train_model(model, 10, flags, *communicator);
  } else {
    nn::ResNet model = nn::resnet50();
    train_model(model, 1000, flags, *communicator);
  }
  return 0;
}

}  // namespace
}  // namespace lockstep::benchmark

int main(int argc, char** argv) {
  try {
    return lockstep::benchmark::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "model_benchmark: %s\n", error.what());
    std::fflush(nullptr);
    std::_Exit(1);  // other ranks may wait for ever
  }
}
