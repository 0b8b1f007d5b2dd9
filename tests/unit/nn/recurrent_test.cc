#include "lockstep/nn/layers/recurrent.h"

#include <gtest/gtest.h>

#include <cmath>

#include "lockstep/autograd/autocast.h"
#include "lockstep/nn/layers.h"
#include "support/gradient_check.h"

namespace lockstep::nn {
namespace {

using Row = std::vector<double>;

double sigmoid_of(double x) { return 1 / (1 + std::exp(-x)); }

// The cells as PyTorch's documentation writes them, element by element, over numbers.
class Reference {
 public:
  Reference(Module& module, const std::string& suffix) {
    for (const auto& [name, array] : module.state()) {
      for (const std::string part : {"weight_ih", "weight_hh", "bias_ih", "bias_hh"}) {
        if (name == part + suffix) weights_[part] = array.to_vector<double>();
      }
    }
  }

  // Row `i` of the product with its bias.
  double product(const std::string& which, size_t i, const Row& x) const {
    double sum = weights_.contains("bias_" + which) ? weights_.at("bias_" + which)[i] : 0;
    for (size_t k = 0; k < x.size(); ++k)
      sum += weights_.at("weight_" + which)[i * x.size() + k] * x[k];
    return sum;
  }
  Row rnn(const Row& x, const Row& h, bool relu) const {
    Row result;
    for (size_t i = 0; i < h.size(); ++i) {
      const double sum = product("ih", i, x) + product("hh", i, h);
      result.push_back(relu ? std::max(0.0, sum) : std::tanh(sum));
    }
    return result;
  }
  Row gru(const Row& x, const Row& h) const {
    const size_t n = h.size();
    Row result;
    for (size_t i = 0; i < n; ++i) {
      const double reset = sigmoid_of(product("ih", i, x) + product("hh", i, h));
      const double update = sigmoid_of(product("ih", n + i, x) + product("hh", n + i, h));
      const double fresh =
          std::tanh(product("ih", 2 * n + i, x) + reset * product("hh", 2 * n + i, h));
      result.push_back((1 - update) * fresh + update * h[i]);
    }
    return result;
  }
  Row lstm(const Row& x, const Row& h, Row& c) const {
    const size_t n = h.size();
    const auto gate = [&](size_t which, size_t i) {
      return product("ih", which * n + i, x) + product("hh", which * n + i, h);
    };
    Row result;
    for (size_t i = 0; i < n; ++i) {
      c[i] = sigmoid_of(gate(1, i)) * c[i] + sigmoid_of(gate(0, i)) * std::tanh(gate(2, i));
      result.push_back(sigmoid_of(gate(3, i)) * std::tanh(c[i]));
    }
    return result;
  }

 private:
  std::map<std::string, Row> weights_;
};

constexpr int64_t kTime = 4, kIn = 3, kHidden = 2;

std::vector<Row> rows_of(const Tensor& x) {
  const Row flat = x.to_vector<double>();
  std::vector<Row> rows;
  const size_t width = static_cast<size_t>(x.dim(-1));
  for (size_t i = 0; i < flat.size(); i += width) rows.emplace_back(&flat[i], &flat[i] + width);
  return rows;
}

void expect_rows(const std::vector<Row>& actual, const std::vector<Row>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(actual[i].size(), expected[i].size());
    for (size_t j = 0; j < actual[i].size(); ++j) EXPECT_NEAR(actual[i][j], expected[i][j], 1e-12);
  }
}

TEST(Recurrent, CellsAreTheFormulasStepByStep) {
  const Tensor x(testing::random_array({kTime, kIn}, 1));
  const Tensor h0(testing::random_array({1, kHidden}, 2)),
      c0(testing::random_array({1, kHidden}, 3));
  const auto steps = rows_of(x);
  const auto run = [&](auto advance) {
    Row h = rows_of(h0)[0];
    std::vector<Row> expected;
    for (const Row& step : steps) expected.push_back(h = advance(step, h));
    return expected;
  };
  for (bool relu : {false, true}) {
    RNN rnn(kIn, kHidden,
            {.nonlinearity = relu ? RNN::Nonlinearity::relu : RNN::Nonlinearity::tanh});
    rnn.place({.dtype = DType::f64, .seed = 4});
    const Reference reference(rnn, "_l0");
    const auto out = rnn(x, h0);
    const auto expected =
        run([&](const Row& s, const Row& h) { return reference.rnn(s, h, relu); });
    expect_rows(rows_of(out.output), expected);
    expect_rows(rows_of(out.h_n), {expected.back()});
  }
  GRU gru(kIn, kHidden);
  gru.place({.dtype = DType::f64, .seed = 4});
  const Reference of_gru(gru, "_l0");
  expect_rows(rows_of(gru(x, h0).output),
              run([&](const Row& s, const Row& h) { return of_gru.gru(s, h); }));
  LSTM lstm(kIn, kHidden, {.bias = false});
  lstm.place({.dtype = DType::f64, .seed = 4});
  const Reference of_lstm(lstm, "_l0");
  Row c = rows_of(c0)[0];
  const auto out = lstm(x, h0, c0);
  expect_rows(rows_of(out.output),
              run([&](const Row& s, const Row& h) { return of_lstm.lstm(s, h, c); }));
  expect_rows(rows_of(out.c_n), {c});
}

TEST(Recurrent, LayersAndDirectionsAreStacked) {
  GRU gru(kIn, kHidden, {.num_layers = 2, .bidirectional = true});
  gru.place({.dtype = DType::f64, .seed = 4});
  const Tensor x(testing::random_array({kTime, kIn}, 1));
  std::vector<Row> input = rows_of(x), last;
  for (const std::string layer : {"_l0", "_l1"}) {
    const Reference forward(gru, layer), backward(gru, layer + "_reverse");
    std::vector<Row> output(kTime, Row(2 * kHidden));
    Row h(kHidden), g(kHidden);
    for (size_t t = 0; t < kTime; ++t) {
      h = forward.gru(input[t], h);
      std::copy(h.begin(), h.end(), output[t].begin());
    }
    for (size_t t = kTime; t-- > 0;) {
      g = backward.gru(input[t], g);
      std::copy(g.begin(), g.end(), output[t].begin() + kHidden);
    }
    last.push_back(h);
    last.push_back(g);
    input = output;
  }
  const auto out = gru(x);
  expect_rows(rows_of(out.output), input);
  expect_rows(rows_of(out.h_n), last);
}

TEST(Recurrent, BatchFirstAndWithoutBatchAreTheSameNumbers) {
  LSTM plain(kIn, kHidden, {.num_layers = 2}),
      first(kIn, kHidden, {.num_layers = 2, .batch_first = true});
  plain.place({.dtype = DType::f64, .seed = 4});
  first.place({.dtype = DType::f64, .seed = 4});
  const Tensor x(testing::random_array({kTime, 3, kIn}, 1));
  const auto a = plain(x), b = first(transpose(x, 0, 1)), one = plain(select(x, 1, 2));
  EXPECT_EQ(a.output.shape(), (Shape{kTime, 3, kHidden}));
  EXPECT_EQ(a.h_n.shape(), (Shape{2, 3, kHidden}));
  EXPECT_EQ(b.output.shape(), (Shape{3, kTime, kHidden}));
  EXPECT_EQ(b.c_n.shape(), (Shape{2, 3, kHidden}));
  EXPECT_EQ(one.output.shape(), (Shape{kTime, kHidden}));
  EXPECT_EQ(one.c_n.shape(), (Shape{2, kHidden}));
  expect_rows(rows_of(transpose(b.output, 0, 1)), rows_of(a.output));
  expect_rows(rows_of(one.output), rows_of(select(a.output, 1, 2)));
  expect_rows(rows_of(one.c_n), rows_of(select(a.c_n, 1, 2)));
}

TEST(Recurrent, GradientsOfEveryInputAreRightTwice) {
  for (RecurrentCell cell : {RecurrentCell::rnn_tanh, RecurrentCell::lstm, RecurrentCell::gru}) {
    for (bool reverse : {false, true}) {
      const int64_t rows = gates_of(cell) * kHidden;
      std::vector<Array> inputs;
      for (const Shape& shape :
           {Shape{3, 2, kIn}, Shape{2, kHidden}, Shape{2, kHidden}, Shape{rows, kIn},
            Shape{rows, kHidden}, Shape{rows}, Shape{rows}}) {
        inputs.push_back(testing::random_array(shape, inputs.size() + 1));
      }
      const testing::Function f = [&](const auto& in) {
        const RecurrentOutput out =
            recurrent(cell, in[0], in[1], in[2], {in[3], in[4], in[5], in[6]}, reverse);
        // The cell's input c must reach the result for the check, whatever the cell.
        const Tensor last = out.cell ? out.cell : in[2];
        return cat({reshape(out.output, {-1}), reshape(last, {-1})}, 0);
      };
      testing::expect_gradients(f, inputs);
      testing::expect_second_gradients(f, inputs);
      testing::expect_recorded_equals_fused(f, inputs);
    }
  }
}

TEST(Recurrent, DropoutBetweenLayersInTrainingOnly) {
  GRU gru(kIn, 8, {.num_layers = 2, .dropout = 0.5}), last(kIn, 8, {.dropout = 0.5});
  const Tensor x{Array::full({kTime, 2, kIn}, 1, DType::f32)};
  context().random = {.seed = 1};
  EXPECT_NE(gru(x).output.to_vector<float>(), gru(x).output.to_vector<float>());
  EXPECT_EQ(last(x).output.to_vector<float>(), last(x).output.to_vector<float>());
  gru.eval();
  EXPECT_EQ(gru(x).output.to_vector<float>(), gru(x).output.to_vector<float>());
}

TEST(Recurrent, OneRecordedOpForALayer) {
  LSTM lstm(kIn, kHidden);
  lstm.place({});
  const uint64_t before = context().next_node_id;
  lstm(Tensor(Array::zeros({50, 2, kIn}, DType::f32)));
  EXPECT_LT(context().next_node_id - before, 10u);
}

TEST(Recurrent, AutocastComputesIn16Bits) {
  GRU gru(kIn, kHidden);
  gru.place({.seed = 1});
  const Tensor x{Array::full({kTime, 2, kIn}, 0.5, DType::f32)};
  const auto exact = gru(x).output.to_vector<double>();
  const Autocast autocast(DType::bf16);
  const Tensor y = gru(x).output;
  EXPECT_EQ(y.dtype(), DType::bf16);
  const auto rough = y.to_vector<double>();
  for (size_t i = 0; i < exact.size(); ++i) EXPECT_NEAR(rough[i], exact[i], 0.02);
  sum(y).backward();
  EXPECT_EQ(gru.parameters()[0].grad().dtype(), DType::f32);
}

TEST(Recurrent, ErrorsSayWhatWasExpected) {
  LSTM lstm(kIn, kHidden);
  lstm.place({});
  const auto zeros = [](Shape shape) { return Tensor(Array::zeros(shape, DType::f32)); };
  EXPECT_THROW(lstm(Tensor()), Error);
  EXPECT_THROW(lstm(zeros({kTime, 2, kIn + 1})), Error);
  EXPECT_THROW(lstm(zeros({0, 2, kIn})), Error);
  EXPECT_THROW(lstm(zeros({kTime})), Error);
  EXPECT_THROW(lstm(zeros({kTime, 2, kIn}), zeros({1, 2, kHidden})), Error);
  EXPECT_THROW(lstm(zeros({kTime, 2, kIn}), zeros({1, 3, kHidden}), zeros({1, 2, kHidden})), Error);
  EXPECT_THROW(lstm(Tensor(Array::zeros({kTime, 2, kIn}, DType::i64))), Error);
  EXPECT_EQ(lstm(zeros({kTime, 0, kIn})).output.shape(), (Shape{kTime, 0, kHidden}));
  EXPECT_THROW(GRU(0, 2), Error);
  EXPECT_THROW(GRU(2, 2, {.dropout = 2}), Error);
}

}  // namespace
}  // namespace lockstep::nn
