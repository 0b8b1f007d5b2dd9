#pragma once

#include "lockstep/autograd/tensor.h"

namespace lockstep {

enum class RecurrentCell { rnn_tanh, rnn_relu, lstm, gru };
// Blocks of rows in the cell's weights: 1, 4 (input, forget, cell, output) or 3 (reset, update,
// new).
int gates_of(RecurrentCell cell);

// Of one layer and direction: ih [gates * hidden, input], hh [gates * hidden, hidden], biases
// [gates * hidden] or empty, both or neither.
struct RecurrentWeights {
  Tensor ih, hh, bias_ih, bias_hh;
};
struct RecurrentOutput {
  Tensor output;  // [time, batch, hidden]: the hidden state after each step
  Tensor cell;    // [batch, hidden]: LSTM's cell state after the last step
};

// Runs a cell over x [time, batch, input] from the states h and c [batch, hidden] (c: LSTM only),
// from the end when `reverse`. One recorded op: the input's product and the weights' gradients are
// made for all steps at once. Formulas as in torch.nn.LSTM, GRU and RNN.
RecurrentOutput recurrent(RecurrentCell cell, const Tensor& x, const Tensor& h, const Tensor& c,
                          const RecurrentWeights& weights, bool reverse = false);

}  // namespace lockstep
