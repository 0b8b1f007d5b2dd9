#include <gtest/gtest.h>

#include "lockstep/nn/optim.h"
#include "support/recorded_training.h"

// Training runs that were recorded from PyTorch; tests/data/README.md describes them.
namespace lockstep::nn {
namespace {

using testing::Json;
using testing::Recording;
using testing::Tensors;

// Trains, holding each loss against the recorded one.
template <class Model>
void train(const Recording& run, Model& model, const char* inputs, DType dtype,
           const std::vector<double>& losses, double tolerance) {
  model.place({.dtype = dtype});
  model.load_state(run.folder / "initial.safetensors");
  optim::SGD optimizer(model.parameters(),
                       {.learning_rate = run.attribute<double>("lr"),
                        .momentum = run.attribute<double>("momentum"),
                        .weight_decay = run.expected.at("attributes").value("weight_decay", 0.0)});
  ASSERT_EQ(static_cast<int64_t>(losses.size()), run.attribute<int64_t>("steps"));
  for (size_t step = 0; step < losses.size(); ++step) {
    const int64_t batch = run.attribute<int64_t>("batch_size");
    const int64_t first = static_cast<int64_t>(step) * batch;
    optimizer.zero_grad();
    const Tensor loss = cross_entropy(model(run.rows(inputs, first, batch, dtype)),
                                      run.rows("labels", first, batch, DType::i64));
    loss.backward();
    optimizer.step();
    EXPECT_NEAR(loss.item(), losses[step], tolerance * std::max(1.0, std::abs(losses[step])))
        << "step " << step;
  }
}

void expect_state(Module& module, const Tensors& expected, double tolerance) {
  const std::vector<NamedArray> state = module.state();
  ASSERT_EQ(state.size(), expected.size());
  for (const auto& [name, array] : state) {
    ASSERT_TRUE(expected.contains(name)) << name;
    const auto a = array.to_vector<double>(), b = expected.at(name).to_vector<double>();
    ASSERT_EQ(a.size(), b.size()) << name;
    for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], tolerance) << name;
  }
}

struct Mlp : Layer<Mlp> {
  Linear hidden{20, 32}, output{32, 5};
  Tensor forward(const Tensor& x) { return output(relu(hidden(x))); }
  void visit(Visitor& v) override {
    v("hidden", hidden);
    v("output", output);
  }
};

TEST(RecordedTraining, MlpInDouble) {
  const Recording run("mlp");
  const Json& tolerance = run.expected.at("tolerance").at("float64");
  Mlp model;
  train(run, model, "features", DType::f64, run.expected.at("float64").at("loss"),
        tolerance.at("loss"));
  expect_state(model, run.read("final"), tolerance.at("final"));
}

TEST(RecordedTraining, MlpInSingle) {
  const Recording run("mlp");
  Mlp model;
  train(run, model, "features", DType::f32, run.expected.at("float32").at("loss"),
        run.expected.at("tolerance").at("float32").at("loss"));
}

TEST(RecordedTraining, BatchNormOverTheWholeBatch) {
  const Recording run("cnn_bn");
  const Json& tolerance = run.expected.at("tolerance").at("float64");
  testing::Cnn model;
  train(run, model, "images", DType::f64, run.expected.at("synchronized").at("loss"),
        tolerance.at("loss"));
  expect_state(model, run.read("final_synchronized"), tolerance.at("final"));
}

}  // namespace
}  // namespace lockstep::nn
