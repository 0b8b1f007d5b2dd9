#pragma once

#include <optional>

#include "lockstep/runtime/array.h"
#include "lockstep/runtime/kernels.h"
#include "lockstep/runtime/ops/into.h"

namespace lockstep::kernels {

// A layout that matrix libraries take: one of the last two strides 1, the other no overlap.
bool is_matrix(const Array& x);
// [..., m, k] @ [..., k, n] -> [..., m, n]; leading dimensions broadcast. Rank 2 at least. The
// result is of the operands' dtype, or, of 16-bit ones, f32 where that is asked for.
Array matmul(const Array& a, const Array& b, Into into = {}, std::optional<DType> dtype = {});
// x [rows, in], weight [out, in], bias [out] or empty, of one dtype -> [rows, out].
Array linear(const Array& x, const Array& weight, const Array& bias);

// f(x w' + bias) and, where it is wanted, what went into f; the derivative of f reads its operand
// alone.
struct LinearActivation {
  Array y;
  Array before;
};
LinearActivation linear_activation(const Array& x, const Array& weight, const Array& bias,
                                   Elementwise f, bool keeps_before);
// (dy w) f'(before), in `memory` where that is given (of before's shape and dtype), and where it is
// wanted the sums of its columns, of `bias_dtype`.
struct LinearActivationGradient {
  Array x;  // of what went into f
  Array bias;
};
struct LinearActivationWanted {
  bool bias = false;
  Into into_bias = {};
  DType bias_dtype = DType::f32;
  Array memory = {};
};
LinearActivationGradient linear_activation_backward(const Array& dy, const Array& weight,
                                                    Elementwise f, const Array& before,
                                                    const LinearActivationWanted& wanted);
// dy' x and, where it is wanted, the sums of dy's columns. A dtype is that of dy and x or, where
// they are of 16 bits, f32.
struct LinearWeightGradient {
  Array weight;
  Array bias;
};
struct LinearWeightWanted {
  Into into_weight = {};
  DType weight_dtype = DType::f32;
  bool bias = false;
  Into into_bias = {};
  DType bias_dtype = DType::f32;
};
LinearWeightGradient linear_weight_gradient(const Array& dy, const Array& x,
                                            const LinearWeightWanted& wanted);

}  // namespace lockstep::kernels
