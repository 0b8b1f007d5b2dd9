#pragma once

#include "lockstep/autograd/ops/activation.h"
#include "lockstep/autograd/ops/elementwise.h"

namespace lockstep {

// Operands of one dtype, floating or integer. Dimensions may be 0: sums over nothing are 0.

// [..., m, k] @ [..., k, n]; leading dimensions broadcast. A vector on the left is a row, on the
// right a column, and that dimension goes away again.
Tensor matmul(const Tensor& a, const Tensor& b);
// Matrix times matrix, matrix times vector, batch of matrices: matmul with the ranks checked.
Tensor mm(const Tensor& a, const Tensor& b);
Tensor mv(const Tensor& a, const Tensor& x);
Tensor bmm(const Tensor& a, const Tensor& b);
// beta * input + alpha * (a @ b); input broadcasts to the product. With beta 0 input is not read:
// its NaN stays out.
Tensor addmm(const Tensor& input, const Tensor& a, const Tensor& b, double beta = 1,
             double alpha = 1);
// x [..., in], weight [out, in], bias [out] or empty -> [..., out]; weight [in] without bias ->
// [...]. With an activation, that of the sums: the same as relu(linear(...)), of which only the
// result is kept. On a GPU it is a part of the product.
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
              Activation activation = Activation::none);
struct FeedForwardOptions {
  GeluForm form = GeluForm::erf;
  // gelu's values are computed once more in backward instead of being kept: half of what the op
  // keeps, for one pass over them.
  bool recompute_gelu = false;
};
// linear(gelu(linear(x, weight1, bias1)), weight2, bias2) in one op. On a GPU the tanh form in 16
// bits is a part of the products, forward and backward.
Tensor feed_forward(const Tensor& x, const Tensor& weight1, const Tensor& bias1,
                    const Tensor& weight2, const Tensor& bias2, FeedForwardOptions options = {});
// [n], [m] -> [n, m]
Tensor outer(const Tensor& a, const Tensor& b);
// [n], [n] -> []
Tensor dot(const Tensor& a, const Tensor& b);

}  // namespace lockstep
