#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "lockstep/nn/layers.h"
#include "lockstep/nn/optim.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "support/test_data.h"

// Training runs that were recorded from PyTorch; tests/data/README.md describes them.
namespace lockstep::nn {
namespace {

using Json = nlohmann::json;
using Tensors = std::map<std::string, Array>;

struct Recording {
  std::filesystem::path folder;
  Json expected;
  Tensors data;

  explicit Recording(const char* name)
      : folder(testing::test_data(name)),
        expected(Json::parse(std::ifstream(folder / "expected.json"))),
        data(read("data")) {}
  Tensors read(const std::string& file) const {
    return testing::read_tensors(folder / (file + ".safetensors"));
  }
  template <class T>
  T attribute(const char* name) const {
    return expected.at("attributes").at(name).get<T>();
  }
  // `count` rows from `first` on.
  Tensor rows(const char* name, int64_t first, DType dtype) const {
    const Array all = data.at(name);
    const int64_t batch = attribute<int64_t>("batch_size");
    return Tensor(kernels::cast(all.narrow(0, first % all.dim(0), batch), dtype));
  }
};

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
    const int64_t first = static_cast<int64_t>(step) * run.attribute<int64_t>("batch_size");
    optimizer.zero_grad();
    const Tensor loss =
        cross_entropy(model(run.rows(inputs, first, dtype)), run.rows("labels", first, DType::i64));
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

struct Cnn : Layer<Cnn> {
  Conv2d conv1{3, 8, {3}, {.padding = {1}}};
  BatchNorm2d bn1{8};
  Conv2d conv2{8, 16, {3}, {.padding = {1}, .bias = false}};
  BatchNorm2d bn2{16};
  Linear fc{16, 4};
  Tensor forward(const Tensor& x) {
    const Tensor y = max_pool2d(relu(bn1(conv1(x))), {.kernel_size = {2}});
    return fc(mean(relu(bn2(conv2(y))), {2, 3}));
  }
  void visit(Visitor& v) override {
    v("conv1", conv1);
    v("bn1", bn1);
    v("conv2", conv2);
    v("bn2", bn2);
    v("fc", fc);
  }
};

TEST(RecordedTraining, BatchNormOverTheWholeBatch) {
  const Recording run("cnn_bn");
  const Json& tolerance = run.expected.at("tolerance").at("float64");
  Cnn model;
  train(run, model, "images", DType::f64, run.expected.at("synchronized").at("loss"),
        tolerance.at("loss"));
  expect_state(model, run.read("final_synchronized"), tolerance.at("final"));
}

}  // namespace
}  // namespace lockstep::nn
