#include "lockstep/nn/module.h"

#include <gtest/gtest.h>

#include <sstream>

#include "lockstep/nn/layers.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "support/gradient_check.h"

namespace lockstep::nn {
namespace {

struct Mlp : Layer<Mlp> {
  Linear hidden{784, 256}, output{256, 10};
  Tensor forward(const Tensor& x) { return output(relu(hidden(x))); }
  void visit(Visitor& v) override {
    v("hidden", hidden);
    v("output", output);
  }
};

struct Tied : Layer<Tied> {
  Embedding table{5, 3};
  std::vector<Linear> stack;
  std::optional<LayerNorm> norm;
  Buffer count{{1}, 2.0};
  Tied() {
    stack.emplace_back(3, 3);
    stack.emplace_back(3, 3);
    stack[1].weight = stack[0].weight;
  }
  Tensor forward(const Tensor& ids) { return linear(stack[1](stack[0](table(ids))), table.weight); }
  void visit(Visitor& v) override {
    v("table", table);
    v("stack", stack);
    v("norm", norm);
    v("count", count);
  }
};

std::vector<std::string> names(Module& module) {
  std::vector<std::string> result;
  for (const NamedParameter& named : module.named_parameters()) result.push_back(named.name);
  return result;
}

TEST(Module, NamesArePathsAndTiedParametersComeOnce) {
  Tied model;
  EXPECT_EQ(names(model), (std::vector<std::string>{"table.weight", "stack.0.weight",
                                                    "stack.0.bias", "stack.1.bias"}));
  model.norm.emplace(3);
  EXPECT_EQ(names(model).back(), "norm.bias");
  EXPECT_EQ(model.named_buffers().at(0).name, "count");
}

TEST(Module, TheFirstCallPlacesIt) {
  Mlp model;
  EXPECT_FALSE(model.placed());
  const Tensor y = model(Tensor(Array::zeros({32, 784}, DType::f32)));
  EXPECT_EQ(y.shape(), (Shape{32, 10}));
  EXPECT_TRUE(model.placed());
  EXPECT_EQ(model.output.path(), "output");
  EXPECT_EQ(model.parameter_count(), 784 * 256 + 256 + 256 * 10 + 10);
  EXPECT_THROW(model.place({}), Error);
}

TEST(Module, InitialValuesDependOnSeedAndNameAlone) {
  Mlp a, b, c;
  a.place({.seed = 3});
  b.place({.dtype = DType::f64, .seed = 3});
  c.place({.seed = 4});
  const auto values = [](Mlp& m) { return m.hidden.weight.tensor().to_vector<float>(); };
  EXPECT_EQ(values(a), values(b));
  EXPECT_NE(values(a), values(c));
  // A slice is what the whole has there: a rank can fill its own.
  const Array slice = Array::empty({100}, DType::f32);
  a.hidden.weight.initialize(slice, 1000, "hidden.weight", 3);
  const auto whole = values(a), part = slice.to_vector<float>();
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + 1000));
  const double bound = 1 / std::sqrt(784.0);
  for (float v : whole) EXPECT_LE(std::abs(v), bound);
}

TEST(Module, UseBeforePlacingIsAnError) {
  Mlp model;
  EXPECT_THROW(model.hidden.forward(Tensor(Array::zeros({1, 784}, DType::f32))), Error);
}

TEST(Module, TrainingModeReachesEveryPart) {
  Sequential model(Linear(4, 4), Dropout(0.5), GELU(), Linear(4, 2));
  const Tensor x{Array::full({8, 4}, 1, DType::f32)};
  model.train(false);
  context().random = {.seed = 1};
  EXPECT_EQ(model(x).to_vector<float>(), model(x).to_vector<float>());
  model.train();
  EXPECT_NE(model(x).to_vector<float>(), model(x).to_vector<float>());
  EXPECT_EQ(names(model), (std::vector<std::string>{"0.weight", "0.bias", "3.weight", "3.bias"}));
}

TEST(Module, ApplyReachesPartsBeforeTheWhole) {
  Sequential model(Linear(2, 2), Sequential(ReLU(), Linear(2, 2)));
  std::vector<std::string> seen;
  model.apply([&](Module& part) { seen.push_back(part.type_name()); });
  EXPECT_EQ(seen,
            (std::vector<std::string>{"Linear", "ReLU", "Sequential", "Linear", "Sequential"}));
  EXPECT_EQ(model.named_modules().at(4).name, "1.1");
}

TEST(Module, ConvertsWhatFollowsThePlacement) {
  Sequential model(Linear(3, 4), BatchNorm1d(4));
  model.place({.seed = 1});
  const auto before = model.parameters()[0].tensor().to_vector<float>();
  const Tensor x{Array::full({4, 3}, 1, DType::f32)};
  sum(model(x)).backward();
  model.to(DType::f64);
  EXPECT_EQ(model.parameters()[0].dtype(), DType::f64);
  EXPECT_EQ(model.parameters()[0].tensor().to_vector<float>(), before);
  EXPECT_FALSE(model.parameters()[0].grad());
  const auto buffers = model.named_buffers();
  EXPECT_EQ(buffers.at(0).buffer.array().dtype(), DType::f64);
  EXPECT_EQ(buffers.at(2).buffer.array().dtype(), DType::i64);
  EXPECT_EQ(buffers.at(2).buffer.array().item(), 1);
  sum(model(Tensor(kernels::cast(x.value(), DType::f64)))).backward();
  EXPECT_EQ(model.parameters()[0].grad().dtype(), DType::f64);
  EXPECT_THROW(model.to(DType::i64), Error);
  // Data parallelism holds the gradient's memory: a new dtype would leave it behind.
  const Parameter seated = model.parameters()[0];
  seated.leaf().seat_gradient(Array::zeros(seated.shape(), DType::f64));
  EXPECT_THROW(model.to(DType::f32), Error);
}

TEST(Module, PlacesPartsThatWerePlacedOtherwise) {
  Linear part(3, 4);
  part.place({.seed = 1});
  const auto before = part.weight.tensor().to_vector<float>();
  Sequential model(std::move(part));
  model.place({.dtype = DType::f64});
  EXPECT_EQ(model.parameters()[0].tensor().to_vector<float>(), before);
  sum(model(Tensor(Array::full({4, 3}, 1, DType::f64)))).backward();
  EXPECT_EQ(model.parameters()[0].grad().dtype(), DType::f64);
}

TEST(Module, RequiresGradByPrefix) {
  Sequential model(Linear(2, 2), Sequential(Linear(2, 2), Linear(2, 2)), Linear(2, 2));
  const auto frozen = [&] {
    std::string result;
    for (const Parameter& parameter : model.parameters()) result += parameter.frozen() ? 'x' : '.';
    return result;
  };
  model.freeze("1");
  EXPECT_EQ(frozen(), "..xxxx..");
  model.requires_grad(true, "1.0.bias");
  EXPECT_EQ(frozen(), "..x.xx..");
  model.requires_grad(false);
  EXPECT_EQ(frozen(), "xxxxxxxx");
  model.requires_grad();
  EXPECT_EQ(frozen(), "........");
  EXPECT_THROW(model.freeze("1.0.b"), Error);
  Tied tied;  // under either name
  tied.freeze("stack.1");
  EXPECT_TRUE(tied.stack[0].weight.frozen());
  EXPECT_FALSE(tied.stack[0].bias.frozen());
  tied.requires_grad(true, "stack.1.weight");
  EXPECT_FALSE(tied.stack[0].weight.frozen());
  const auto biases = model.parameters(
      [](std::string_view name, const Parameter&) { return name.ends_with("bias"); });
  EXPECT_EQ(biases.size(), 4u);
}

struct Encoder : Layer<Encoder> {
  Embedding table{60, 20, {.padding_idx = 3}};
  std::vector<Linear> layers;
  LSTM memory{20, 4, {.num_layers = 2, .bidirectional = true}};
  Encoder() { layers.emplace_back(20, 20, Linear::Options{.bias = false}); }
  void visit(Visitor& v) override {
    v("table", table);
    v("layers", layers);
    v("memory", memory);
  }
};

TEST(Module, PrintsTheTreeAsPyTorchDoes) {
  Encoder encoder;
  EXPECT_EQ(to_string(encoder), R"(Encoder(
  (table): Embedding(60, 20, padding_idx=3)
  (layers): ModuleList(
    (0): Linear(in_features=20, out_features=20, bias=False)
  )
  (memory): LSTM(20, 4, num_layers=2, bidirectional=True)
))");
  Sequential model(Conv2d(3, 4, {3}, {.padding = {1}, .bias = false}), BatchNorm2d(4),
                   GELU(GeluForm::tanh), Flatten(), LayerNorm(16));
  std::ostringstream out;
  out << model;
  EXPECT_EQ(out.str(), R"(Sequential(
  (0): Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
  (1): BatchNorm2d(4, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
  (2): GELU(approximate='tanh')
  (3): Flatten(start_dim=1, end_dim=-1)
  (4): LayerNorm((16,), eps=1e-05, elementwise_affine=True, bias=True)
))");
}

TEST(ModuleList, HoldsModulesOfAnyType) {
  ModuleList list(Linear(2, 3));
  list.append(LayerNorm(3));
  EXPECT_EQ(names(list), (std::vector<std::string>{"0.weight", "0.bias", "1.weight", "1.bias"}));
  list.place({});
  const Tensor y =
      list.get<LayerNorm>(1)(list.get<Linear>(0)(Tensor(Array::zeros({1, 2}, DType::f32))));
  EXPECT_EQ(y.shape(), (Shape{1, 3}));
  EXPECT_THROW(list.get<Linear>(1), std::bad_cast);
}

TEST(Parameter, SeatingMovesTheValueUnderTheModule) {
  Mlp model;
  model.place({.dtype = DType::f64, .seed = 1});
  const auto before = model.output.bias.tensor().to_vector<double>();
  const Array flat = Array::zeros({64}, DType::f64);
  model.output.bias.seat(flat.narrow(0, 8, 10));
  EXPECT_EQ(model.output.bias.tensor().to_vector<double>(), before);
  EXPECT_EQ(flat.to_vector<double>()[8], before[0]);
  const Array gradient = Array::zeros({10}, DType::f64);
  model.output.bias.leaf().seat_gradient(gradient);
  sum(model(Tensor(testing::random_array({3, 784}, 1)))).backward();
  EXPECT_DOUBLE_EQ(gradient.to_vector<double>()[0], 3);
}

TEST(Parameter, FrozenTakesNoGradient) {
  Mlp model;
  model.hidden.weight.set_frozen(true);
  model.place({});
  sum(model(Tensor(Array::full({2, 784}, 1, DType::f32)))).backward();
  EXPECT_FALSE(model.hidden.weight.grad());
  EXPECT_TRUE(model.hidden.bias.grad());
  model.hidden.weight.set_frozen(false);
  sum(model(Tensor(Array::full({2, 784}, 1, DType::f32)))).backward();
  EXPECT_TRUE(model.hidden.weight.grad());
}

}  // namespace
}  // namespace lockstep::nn
