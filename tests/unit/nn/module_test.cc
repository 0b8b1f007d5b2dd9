#include "lockstep/nn/module.h"

#include <gtest/gtest.h>

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
  Sequential model(Linear(4, 4), Dropout(0.5), Gelu(), Linear(4, 2));
  const Tensor x{Array::full({8, 4}, 1, DType::f32)};
  model.train(false);
  context().random = {.seed = 1};
  EXPECT_EQ(model(x).to_vector<float>(), model(x).to_vector<float>());
  model.train();
  EXPECT_NE(model(x).to_vector<float>(), model(x).to_vector<float>());
  EXPECT_EQ(names(model), (std::vector<std::string>{"0.weight", "0.bias", "3.weight", "3.bias"}));
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

TEST(Layers, AttentionSeesOnlyWhatIsBefore) {
  CausalSelfAttention attention(8, 2);
  attention.place({.dtype = DType::f64, .seed = 2});
  const Array x = testing::random_array({1, 5, 8}, 3);
  const auto before = attention(Tensor(x)).to_vector<double>();
  x.data<double>()[4 * 8] += 1;  // the last position
  const auto after = attention(Tensor(x)).to_vector<double>();
  EXPECT_TRUE(std::equal(before.begin(), before.begin() + 4 * 8, after.begin()));
  EXPECT_NE(before[4 * 8], after[4 * 8]);
  EXPECT_THROW(CausalSelfAttention(8, 3), Error);
}

TEST(Layers, ErrorsNameTheOpAndTheShapes) {
  Linear layer(4, 2);
  try {
    layer(Tensor(Array::zeros({3, 5}, DType::f32)));
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "linear: input of shape [3, 5] and weight of shape [2, 4]");
  }
}

}  // namespace
}  // namespace lockstep::nn
