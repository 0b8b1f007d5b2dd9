// Ops that save their own output: one that is changed in place before the backward pass is an
// error, never a wrong gradient.

#include <gtest/gtest.h>

#include "lockstep/autograd/ops.h"
#include "support/gradient_check.h"

namespace lockstep {
namespace {

using testing::random_array;

Tensor variable(Shape shape, uint64_t seed) { return Tensor::variable(random_array(shape, seed)); }

// Of 3 steps, a batch of 2 and 4 hidden values.
RecurrentOutput run_cell(RecurrentCell cell, const Tensor& x, bool reverse) {
  const int64_t rows = gates_of(cell) * 4;
  const Tensor state(Array::zeros({2, 4}, DType::f64));
  return recurrent(cell, x, state, state,
                   {Tensor(random_array({rows, 5}, 2)), Tensor(random_array({rows, 4}, 3)), {}, {}},
                   reverse);
}

// The loss is made of other values than those that change.
void expect_noticed(const char* op, const Tensor& loss, const Tensor& changed) {
  SCOPED_TRACE(op);
  {
    const NoGrad no_grad;
    Tensor output = changed;
    output *= 0.0;
  }
  try {
    loss.backward();
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find(concat({"backward of ", op})), std::string::npos) << message;
    EXPECT_NE(message.find("changed in place"), std::string::npos) << message;
  }
}

TEST(SavedOutputs, OfSoftmaxAndAttentionAreNotToBeChanged) {
  const Tensor x = variable({2, 3, 12}, 1);
  const Tensor weights = softmax(x);
  expect_noticed("softmax", sum(weights + 1.0), weights);
  const Tensor attended = scaled_dot_product_attention(x, x, x);
  expect_noticed("attention", sum(attended + 1.0), attended);
  for (const bool causal : {false, true}) {
    const Tensor packed = packed_attention(x, 2, causal);
    expect_noticed("packed_attention", sum(packed + 1.0), packed);
  }
}

TEST(SavedOutputs, OfRecurrentCellsAreNotToBeChanged) {
  const Tensor x = variable({3, 2, 5}, 1);
  for (const RecurrentCell cell : {RecurrentCell::rnn_tanh, RecurrentCell::rnn_relu,
                                   RecurrentCell::lstm, RecurrentCell::gru}) {
    for (const bool reverse : {false, true}) {
      const Tensor output = run_cell(cell, x, reverse).output;
      // A window of it, as the last hidden state is.
      expect_noticed("recurrent", sum(output + 1.0), select(output, 0, 1));
    }
  }
  for (const bool reverse : {false, true}) {
    const RecurrentOutput lstm = run_cell(RecurrentCell::lstm, x, reverse);
    expect_noticed("recurrent", sum(lstm.output + 1.0), lstm.cell);
  }
}

}  // namespace
}  // namespace lockstep
