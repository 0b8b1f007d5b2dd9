#pragma once

#include "lockstep/runtime/math/activation.h"
#include "lockstep/runtime/math/arithmetic.h"
#include "lockstep/runtime/math/loss.h"
#include "lockstep/runtime/math/transcendental.h"

// The functors of one operand. Conventions at corners are PyTorch's: the derivatives of abs, sign
// and relu at 0 and of clamp at its bounds are 0, NaN passes through relu and clamp, round takes
// halves to even.
namespace lockstep::math {

// The order is the index in every table. Append.
using UnaryOps =
    TypeList<Neg, Abs, Sign, Exp, Expm1, Log, Log1p, Log2, Sqrt, Rsqrt, Reciprocal, Square, Sin,
             Cos, Tan, Tanh, Sinh, Cosh, Erf, Sigmoid, Relu, Gelu, GeluTanh, Silu, Softplus,
             LeakyRelu, Clamp, PowScalar, AddScalar, MulScalar, Floor, Ceil, Round, Trunc,
             DivScalar, ClampMin, ClampMax, Asin, Acos, Atan, Erfc, LogSigmoid, Elu, Selu, Celu,
             Mish, HardTanh, HardSwish, HardSigmoid, Softsign, Huber>;

// Those that are also defined on integers, exactly, and those of them on bool. The others take
// integers to f32.
using IntegerUnaryOps = TypeList<Neg, Abs, Sign, Square, Relu, Floor, Ceil, Round, Trunc>;
using BooleanUnaryOps = TypeList<Sign>;

}  // namespace lockstep::math
