#include "lockstep/nn/layers/recurrent.h"

#include <cmath>

#include "lockstep/autograd/ops.h"
#include "lockstep/nn/layers/describe.h"

namespace lockstep::nn {
namespace {

RecurrentOptions shared_options(const RNN::Options& options) {
  return {.num_layers = options.num_layers,
          .bias = options.bias,
          .batch_first = options.batch_first,
          .dropout = options.dropout,
          .bidirectional = options.bidirectional};
}

RecurrentCell cell_of(RNN::Nonlinearity nonlinearity) {
  return nonlinearity == RNN::Nonlinearity::tanh ? RecurrentCell::rnn_tanh
                                                 : RecurrentCell::rnn_relu;
}

}  // namespace

RecurrentStack::RecurrentStack(RecurrentCell cell, int64_t input_size, int64_t hidden_size,
                               const RecurrentOptions& options)
    : cell_(cell), input_size_(input_size), hidden_size_(hidden_size), options_(options) {
  LOCKSTEP_CHECK(input_size > 0 && hidden_size > 0 && options.num_layers > 0,
                 "recurrent layers: sizes ", input_size, " and ", hidden_size, ", ",
                 options.num_layers, " layers");
  LOCKSTEP_CHECK(0 <= options.dropout && options.dropout <= 1, "recurrent layers: dropout ",
                 options.dropout, ", expected 0 to 1");
  const int64_t rows = gates_of(cell) * hidden_size, directions = options.bidirectional ? 2 : 1;
  const auto initializer = Initializer::uniform(1 / std::sqrt(static_cast<double>(hidden_size)));
  for (int64_t i = 0; i < options.num_layers * directions; ++i) {
    const int64_t width = i < directions ? input_size : directions * hidden_size;
    Weights weights{.ih = Parameter({rows, width}, initializer),
                    .hh = Parameter({rows, hidden_size}, initializer)};
    if (options.bias) {
      weights.bias_ih = Parameter({rows}, initializer);
      weights.bias_hh = Parameter({rows}, initializer);
    }
    weights_.push_back(std::move(weights));
  }
}

void RecurrentStack::visit(Visitor& v) {
  const size_t directions = options_.bidirectional ? 2 : 1;
  for (size_t i = 0; i < weights_.size(); ++i) {
    const std::string end =
        "_l" + std::to_string(i / directions) + (i % directions == 1 ? "_reverse" : "");
    v("weight_ih" + end, weights_[i].ih);
    v("weight_hh" + end, weights_[i].hh);
    v("bias_ih" + end, weights_[i].bias_ih);
    v("bias_hh" + end, weights_[i].bias_hh);
  }
}

std::string RecurrentStack::describe() const {
  std::string result = concat({input_size_, ", ", hidden_size_});
  if (options_.num_layers != 1) result += concat({", num_layers=", options_.num_layers});
  if (!options_.bias) result += ", bias=False";
  if (options_.batch_first) result += ", batch_first=True";
  if (options_.dropout != 0) result += concat({", dropout=", options_.dropout});
  if (options_.bidirectional) result += ", bidirectional=True";
  return result;
}

// [layers * directions, batch, hidden]
Tensor RecurrentStack::initial_state(const Tensor& given, const Tensor& x, bool batched,
                                     const char* name) const {
  const Shape shape{static_cast<int64_t>(weights_.size()), x.dim(1), hidden_size_};
  if (!given) return Tensor(Array::zeros(shape, x.dtype(), x.device()));
  const Shape expected = batched ? shape : Shape{shape[0], shape[2]};
  LOCKSTEP_CHECK(given.shape() == expected, "recurrent layers: ", name, " of shape ", given.shape(),
                 ", expected ", expected);
  return batched ? given : unsqueeze(given, 1);
}

RecurrentStack::Result RecurrentStack::run_batched(Tensor x, const States& first,
                                                   bool training) const {
  const int directions = options_.bidirectional ? 2 : 1;
  const int64_t time = x.dim(0);
  std::vector<Tensor> last_h, last_c;
  for (int64_t layer = 0; layer < options_.num_layers; ++layer) {
    if (layer > 0) x = dropout(x, options_.dropout, training);
    std::vector<Tensor> outputs;
    for (int direction = 0; direction < directions; ++direction) {
      const int64_t i = layer * directions + direction;
      const Weights& weights = weights_[static_cast<size_t>(i)];
      const bool reverse = direction == 1;
      const RecurrentOutput out =
          recurrent(cell_, x, select(first.h, 0, i), first.c ? select(first.c, 0, i) : Tensor(),
                    {weights.ih, weights.hh, weights.bias_ih.tensor_or_empty(),
                     weights.bias_hh.tensor_or_empty()},
                    reverse);
      outputs.push_back(out.output);
      last_h.push_back(select(out.output, 0, reverse ? 0 : time - 1));
      if (out.cell) last_c.push_back(out.cell);
    }
    x = directions == 1 ? outputs[0] : cat(outputs, 2);
  }
  return {x, {stack(last_h, 0), last_c.empty() ? Tensor() : stack(last_c, 0)}};
}

RecurrentStack::Result RecurrentStack::run(const Tensor& x, const States& first,
                                           bool training) const {
  LOCKSTEP_CHECK(x && (x.rank() == 2 || x.rank() == 3) && x.dim(-1) == input_size_,
                 "recurrent layers: input of shape ", x.shape(), ", expected ",
                 options_.batch_first ? "[batch, time, " : "[time, batch, ", input_size_,
                 "], or [time, ", input_size_, "]");
  const bool batched = x.rank() == 3;
  const auto turned = [&](const Tensor& tensor) {
    return options_.batch_first ? transpose(tensor, 0, 1) : tensor;
  };
  const Tensor steps = batched ? turned(x) : unsqueeze(x, 1);
  LOCKSTEP_CHECK(steps.dim(0) > 0, "recurrent layers: input of shape ", x.shape(),
                 " has no time steps");
  States states{initial_state(first.h, steps, batched, "h_0"), {}};
  if (cell_ == RecurrentCell::lstm) states.c = initial_state(first.c, steps, batched, "c_0");
  Result result = run_batched(steps, states, training);
  if (batched) {
    result.output = turned(result.output);
    return result;
  }
  result.output = squeeze(result.output, 1);
  result.last.h = squeeze(result.last.h, 1);
  if (result.last.c) result.last.c = squeeze(result.last.c, 1);
  return result;
}

RNN::RNN(int64_t input_size, int64_t hidden_size, const Options& options)
    : stack(cell_of(options.nonlinearity), input_size, hidden_size, shared_options(options)) {}

RNN::Output RNN::forward(const Tensor& x, const Tensor& h_0) {
  const RecurrentStack::Result result = stack.run(x, {h_0, {}}, training());
  return {result.output, result.last.h};
}

LSTM::LSTM(int64_t input_size, int64_t hidden_size, const Options& options)
    : stack(RecurrentCell::lstm, input_size, hidden_size, options) {}

LSTM::Output LSTM::forward(const Tensor& x, const Tensor& h_0, const Tensor& c_0) {
  LOCKSTEP_CHECK(static_cast<bool>(h_0) == static_cast<bool>(c_0),
                 "LSTM: one of h_0 and c_0 is given, expected both or neither");
  const RecurrentStack::Result result = stack.run(x, {h_0, c_0}, training());
  return {result.output, result.last.h, result.last.c};
}

GRU::GRU(int64_t input_size, int64_t hidden_size, const Options& options)
    : stack(RecurrentCell::gru, input_size, hidden_size, options) {}

GRU::Output GRU::forward(const Tensor& x, const Tensor& h_0) {
  const RecurrentStack::Result result = stack.run(x, {h_0, {}}, training());
  return {result.output, result.last.h};
}

}  // namespace lockstep::nn
