#pragma once

#include "lockstep/runtime/array.h"
#include "lockstep/runtime/ops/into.h"

namespace lockstep::kernels {

// [..., m, k] @ [..., k, n] -> [..., m, n]; leading dimensions broadcast. Rank 2 at least.
Array matmul(const Array& a, const Array& b, Into into = {});
// x [rows, in], weight [out, in], bias [out] or empty, of one dtype -> [rows, out].
Array linear(const Array& x, const Array& weight, const Array& bias);

}  // namespace lockstep::kernels
