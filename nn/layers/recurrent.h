#pragma once

#include <string>
#include <vector>

#include "lockstep/autograd/ops/recurrent.h"
#include "lockstep/nn/module.h"

namespace lockstep::nn {

// Recurrent layers. x is [time, batch, input], or [batch, time, input] with batch_first, or [time,
// input]; the output is of the same form with hidden (twice, if bidirectional) in place of input.
// States are [layers * directions, batch, hidden], without batch where x has none, and zero when
// not given. Weights: weight_ih_l0 [gates * hidden, input], weight_hh_l0 [gates * hidden, hidden],
// bias_ih_l0, bias_hh_l0, the same with _reverse, then _l1, …; all start uniform in
// ±1/sqrt(hidden), as in PyTorch.

struct RecurrentOptions {
  int64_t num_layers = 1;
  bool bias = true;
  bool batch_first = false;
  double dropout = 0;  // of every layer's output but the last's, in training
  bool bidirectional = false;
};

// The layers and directions of one of the modules below.
class RecurrentStack {
 public:
  struct States {
    Tensor h, c;  // c: LSTM only
  };
  struct Result {
    Tensor output;
    States last;
  };

  RecurrentStack(RecurrentCell cell, int64_t input_size, int64_t hidden_size,
                 const RecurrentOptions& options);
  Result run(const Tensor& x, const States& first, bool training) const;
  void visit(Visitor& v);
  std::string describe() const;

 private:
  struct Weights {  // of one layer and direction
    Parameter ih, hh, bias_ih, bias_hh;
  };
  Tensor initial_state(const Tensor& given, const Tensor& x, bool batched, const char* name) const;
  Result run_batched(Tensor x, const States& first, bool training) const;

  RecurrentCell cell_;
  int64_t input_size_, hidden_size_;
  RecurrentOptions options_;
  std::vector<Weights> weights_;  // of layer 0, its reverse, layer 1, …
};

// h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), or relu (Elman 1990).
struct RNN : Layer<RNN> {
  enum class Nonlinearity { tanh, relu };
  struct Options {
    int64_t num_layers = 1;
    Nonlinearity nonlinearity = Nonlinearity::tanh;
    bool bias = true;
    bool batch_first = false;
    double dropout = 0;
    bool bidirectional = false;
  };
  struct Output {
    Tensor output, h_n;
  };
  RNN(int64_t input_size, int64_t hidden_size) : RNN(input_size, hidden_size, Options()) {}
  RNN(int64_t input_size, int64_t hidden_size, const Options& options);
  Output forward(const Tensor& x, const Tensor& h_0 = {});
  void visit(Visitor& v) override { stack.visit(v); }
  std::string describe() const override { return stack.describe(); }

  RecurrentStack stack;
};

// Hochreiter & Schmidhuber 1997, with forget gates. Gates are stacked input, forget, cell, output.
struct LSTM : Layer<LSTM> {
  using Options = RecurrentOptions;
  struct Output {
    Tensor output, h_n, c_n;
  };
  LSTM(int64_t input_size, int64_t hidden_size, const Options& options = {});
  // Both states or neither.
  Output forward(const Tensor& x, const Tensor& h_0 = {}, const Tensor& c_0 = {});
  void visit(Visitor& v) override { stack.visit(v); }
  std::string describe() const override { return stack.describe(); }

  RecurrentStack stack;
};

// Cho et al. 2014. Gates are stacked reset, update, new; the reset gate is applied after the hidden
// product and its bias.
struct GRU : Layer<GRU> {
  using Options = RecurrentOptions;
  struct Output {
    Tensor output, h_n;
  };
  GRU(int64_t input_size, int64_t hidden_size, const Options& options = {});
  Output forward(const Tensor& x, const Tensor& h_0 = {});
  void visit(Visitor& v) override { stack.visit(v); }
  std::string describe() const override { return stack.describe(); }

  RecurrentStack stack;
};

}  // namespace lockstep::nn
