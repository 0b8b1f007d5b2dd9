#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <memory>
#include <sstream>

#include "lockstep/nn/layers.h"
#include "lockstep/nn/models/resnet.h"
#include "support/gradient_check.h"
#include "support/temporary_directory.h"
#include "support/test_data.h"

namespace lockstep::nn {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Table = std::map<std::string, std::unique_ptr<Module>>;

template <class M>
void put(Table& table, const char* label, M module) {
  table[label] = std::make_unique<M>(std::move(module));
}

void put_layers(Table& table) {
  put(table, "linear", Linear(40, 50));
  put(table, "linear_no_bias", Linear(40, 50, {.bias = false}));
  put(table, "conv1d", Conv1d(12, 24, {5}));
  put(table, "conv2d_groups", Conv2d(12, 24, {3, 5}, {.groups = 3}));
  put(table, "conv3d", Conv3d(4, 8, {3}));
  put(table, "conv_transpose1d", ConvTranspose1d(12, 24, {5}));
  put(table, "conv_transpose2d", ConvTranspose2d(12, 24, {3, 5}, {.groups = 3, .bias = false}));
  put(table, "conv_transpose3d", ConvTranspose3d(4, 8, {3}));
  put(table, "batch_norm1d", BatchNorm1d(6));
  put(table, "batch_norm2d_plain", BatchNorm2d(6, {.affine = false}));
  put(table, "batch_norm3d_untracked", BatchNorm3d(6, {.track_running_stats = false}));
  put(table, "layer_norm", LayerNorm({4, 6}));
  put(table, "layer_norm_no_bias", LayerNorm(6, {.bias = false}));
  put(table, "layer_norm_plain", LayerNorm(6, {.elementwise_affine = false}));
  put(table, "rms_norm", RMSNorm(6));
  put(table, "group_norm", GroupNorm(2, 6));
  put(table, "instance_norm2d", InstanceNorm2d(6, {.affine = true}));
  put(table, "embedding", Embedding(60, 20));
  put(table, "embedding_padded", Embedding(60, 20, {.padding_idx = 3}));
}

void put_models(Table& table) {
  put(table, "rnn", RNN(10, 40));
  put(table, "lstm", LSTM(10, 20, {.num_layers = 2, .bidirectional = true}));
  put(table, "gru_no_bias", GRU(10, 20, {.num_layers = 2, .bias = false}));
  put(table, "attention", MultiheadAttention(24, 4));
  put(table, "attention_no_bias", MultiheadAttention(24, 4, {.bias = false}));
  put(table, "attention_apart", MultiheadAttention(24, 4, {.kdim = 30, .vdim = 40}));
  put(table, "encoder_layer", TransformerEncoderLayer(24, 4, {.dim_feedforward = 60}));
  put(table, "encoder",
      TransformerEncoder(24, 4, 2,
                         {.layer = {.dim_feedforward = 60, .bias = false}, .norm = true}));
  put(table, "sequential",
      Sequential(Conv2d(3, 4, {3}), BatchNorm2d(4), ReLU(), Flatten(), Linear(16, 5)));
  put(table, "resnet18", resnet18());
  put(table, "resnet50", resnet50());
}

// A line of module_state.txt: what PyTorch has under that name.
struct Recorded {
  std::string head;  // "weight f32 [50, 40]"
  double mean = 0, deviation = 0, largest = 0;
};

std::map<std::string, std::vector<Recorded>> recorded_state() {
  std::map<std::string, std::vector<Recorded>> result;
  std::ifstream file(testing::test_data("module_state.txt"));
  for (std::string line; std::getline(file, line);) {
    std::istringstream text(line);
    std::string label;
    text >> label;
    std::vector<Recorded>& entries = result[label];
    Recorded entry;
    if (!std::getline(text, entry.head, ']')) continue;
    entry.head = entry.head.substr(1) + "]";
    text >> entry.mean >> entry.deviation >> entry.largest;
    entries.push_back(entry);
  }
  return result;
}

// The initial values are drawn alike: by the moments, as far as the number of values tells.
void expect_alike(const Array& array, const Recorded& recorded) {
  const auto values = array.to_vector<double>();
  const double count = static_cast<double>(values.size());
  double mean = 0, squares = 0, largest = 0;
  for (double v : values) {
    mean += v / count;
    squares += v * v / count;
    largest = std::max(largest, std::abs(v));
  }
  const double deviation = std::sqrt(std::max(0.0, squares - mean * mean));
  const double tolerance = 6 / std::sqrt(count) * recorded.deviation + 1e-5;
  EXPECT_NEAR(mean, recorded.mean, tolerance) << recorded.head;
  EXPECT_NEAR(deviation, recorded.deviation, tolerance) << recorded.head;
  if (count > 100) {
    EXPECT_NEAR(largest, recorded.largest, 0.3 * recorded.largest) << recorded.head;
  }
}

TEST(State, NamesShapesAndInitialValuesAreThoseOfPyTorch) {
  Table table;
  put_layers(table);
  put_models(table);
  const auto recorded = recorded_state();
  ASSERT_EQ(recorded.size(), table.size());
  for (const auto& [label, module] : table) {
    SCOPED_TRACE(label);
    ASSERT_TRUE(recorded.contains(label));
    const std::vector<Recorded>& expected = recorded.at(label);
    const std::vector<NamedArray> state = module->state();
    ASSERT_EQ(state.size(), expected.size());
    for (size_t i = 0; i < state.size(); ++i) {
      const auto& [name, array] = state[i];
      ASSERT_EQ(concat({name, " ", array.dtype(), " ", array.shape()}), expected[i].head);
      expect_alike(array, expected[i]);
    }
  }
}

std::map<std::string, Array> copied_state(Module& module) {
  std::map<std::string, Array> result;
  for (const auto& [name, array] : module.state()) result[name] = kernels::copy(array);
  return result;
}

std::string load_error(Module& module, const std::map<std::string, Array>& values) {
  try {
    module.load_state(values);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(State, LoadingCopiesAndConverts) {
  Sequential from(Linear(3, 4), BatchNorm1d(4)), to(Linear(3, 4), BatchNorm1d(4));
  from.place({.dtype = DType::f64, .seed = 1});
  to.place({.seed = 2});
  const Tensor x(testing::random_array({8, 3}, 1));
  from(x);
  const LoadReport report = to.load_state(copied_state(from));
  EXPECT_THAT(report.missing, IsEmpty());
  EXPECT_THAT(report.unexpected, IsEmpty());
  to.to(DType::f64);
  from.eval();
  to.eval();
  const auto a = from(x).to_vector<double>(), b = to(x).to_vector<double>();
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-6);
}

TEST(State, WhatDoesNotFitIsListedAndNothingIsCopied) {
  Sequential model(Linear(3, 4), Linear(4, 2));
  std::map<std::string, Array> values = copied_state(model);
  const auto before = model.parameters()[1].tensor().to_vector<float>();
  kernels::fill(values["0.bias"], 7);
  values["1.weight"] = Array::zeros({2, 5}, DType::f32);
  values["extra"] = Array::zeros({1}, DType::f32);
  values.erase("0.weight");
  values.erase("1.bias");
  EXPECT_EQ(load_error(model, values),
            "load_state: of another shape: 1.weight is [2, 4] here and [2, 5] there; missing: "
            "0.weight, 1.bias; unexpected: extra");
  EXPECT_EQ(model.parameters()[1].tensor().to_vector<float>(), before);
  // A shape that differs is an error in any case.
  EXPECT_THROW(model.load_state(values, /*strict=*/false), Error);
  values.erase("1.weight");
  const LoadReport report = model.load_state(values, /*strict=*/false);
  EXPECT_THAT(report.missing, ElementsAre("0.weight", "1.weight", "1.bias"));
  EXPECT_THAT(report.unexpected, ElementsAre("extra"));
  EXPECT_EQ(model.parameters()[1].tensor().to_vector<float>()[0], 7);
  values["0.bias"] = Array();
  EXPECT_THROW(model.load_state(values, /*strict=*/false), Error);
}

struct TiedPair : Layer<TiedPair> {
  Linear first{3, 3, {.bias = false}}, second{3, 3, {.bias = false}};
  TiedPair() { second.weight = first.weight; }
  Tensor forward(const Tensor& x) { return second(first(x)); }
  void visit(Visitor& v) override {
    v("first", first);
    v("second", second);
  }
};

TEST(State, ATiedParameterHasEachNameAndNeedsOne) {
  TiedPair model;
  EXPECT_EQ(model.state().size(), 2u);
  EXPECT_EQ(model.state()[1].name, "second.weight");
  std::map<std::string, Array> values;
  EXPECT_THAT(load_error(model, values), HasSubstr("missing: first.weight, second.weight"));
  values["second.weight"] = Array::full({3, 3}, 2, DType::f32);
  EXPECT_EQ(load_error(model, values), "");
  EXPECT_EQ(model.first.weight.tensor().to_vector<float>()[0], 2);
}

TEST(State, SurvivesAFile) {
  const testing::TemporaryDirectory directory;
  Sequential from(Conv2d(2, 3, {3}), BatchNorm2d(3)), to(Conv2d(2, 3, {3}), BatchNorm2d(3));
  from.place({.dtype = DType::f64, .seed = 1});
  from(Tensor(testing::random_array({2, 2, 4, 4}, 1)));
  from.save_state(directory / "model.safetensors");
  to.place({.dtype = DType::f64, .seed = 2});
  to.load_state(directory / "model.safetensors");
  const auto a = copied_state(from), b = copied_state(to);
  for (const auto& [name, array] : a) {
    EXPECT_EQ(array.dtype(), b.at(name).dtype());
    EXPECT_EQ(array.to_vector<double>(), b.at(name).to_vector<double>()) << name;
  }
  EXPECT_EQ(b.at("1.num_batches_tracked").to_vector<int64_t>()[0], 1);
  Linear other(2, 2);
  EXPECT_THROW(other.load_state(directory / "model.safetensors"), Error);
  EXPECT_THROW(other.load_state(directory / "absent.safetensors"), Error);
}

}  // namespace
}  // namespace lockstep::nn
