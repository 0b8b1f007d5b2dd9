#include <cxxabi.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "lockstep/autograd/ops.h"
#include "lockstep/nn/captured_passes.h"
#include "lockstep/nn/layers.h"
#include "lockstep/runtime/plugin.h"
#include "simulated/recorder.h"
#include "support/device_check.h"

// How many kernels a training step of a small classifier is: what it costs on a GPU is them.
namespace lockstep {
namespace {

struct Mlp : nn::Layer<Mlp> {
  nn::Linear first{24, 32}, second{32, 32}, third{32, 10};
  Tensor forward(const Tensor& x) {
    return third(second(first(x, nn::Activation::relu), nn::Activation::relu));
  }
  void visit(nn::Visitor& v) override {
    v("first", first);
    v("second", second);
    v("third", third);
  }
};

std::string readable(const std::string& type) {
  char* name = abi::__cxa_demangle(type.c_str(), nullptr, nullptr, nullptr);
  std::string text = name == nullptr ? type : name;
  std::free(name);
  return text;
}

// Each told by the first of these names that is a part of its type.
std::vector<std::string> kinds_of(const std::vector<std::string>& work) {
  const char* const known[] = {"SimulatedBlas", "CrossEntropyBackward", "CrossEntropy",
                               "LossBody",      "UnaryBackward",        "Binary"};
  std::vector<std::string> kinds;
  for (const std::string& type : work) {
    const std::string text = readable(type);
    const auto is_part = [&](const char* name) { return text.find(name) != std::string::npos; };
    const auto* const found = std::find_if(std::begin(known), std::end(known), is_part);
    kinds.push_back(found == std::end(known) ? text : *found);
  }
  return kinds;
}

TEST(SimulatedMlp, APassIsFewKernels) {
  Mlp model;
  model.place({.device = test::device()});
  nn::CapturedPasses passes(model, backend_of(test::device()));
  const Tensor x(test::on_device(test::values({8, 24}, DType::f32, -1, 1)));
  const Tensor labels(Array::from<int64_t>({0, 9, 3, 4, 5, 1, 2, 2}, {8}, test::device()));
  for (int i = 0; i < 8; ++i) {
    for (const nn::NamedParameter& named : model.named_parameters()) {
      named.parameter.leaf().zero_grad();
    }
    passes.run(
        0, 1, [] {}, [&] { return cross_entropy(model(x), labels); });
  }
  ASSERT_GT(passes.replays(), 0) << passes.refusal();
  const auto* graph =
      open_plugin("liblockstep_cuda.so")
          .function<simulated::GraphRecorderFunction>(simulated::kGraphRecorderFunction)();
  const std::vector<std::string> expected = {
      "SimulatedBlas",
      "SimulatedBlas",
      "SimulatedBlas",  // with biases and relu
      "CrossEntropy",
      "LossBody",
      "Binary",  // the loss's gradient by the number of targets
      "CrossEntropyBackward",
      "SimulatedBlas",
      "SimulatedBlas",  // a weight with its bias, the layer's input
      "UnaryBackward",  // relu
      "SimulatedBlas",
      "SimulatedBlas",
      "UnaryBackward",
      "SimulatedBlas"};
  EXPECT_EQ(kinds_of(graph->work), expected);
}

}  // namespace
}  // namespace lockstep
