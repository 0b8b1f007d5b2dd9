#pragma once

#include "lockstep/runtime/array.h"
#include "lockstep/runtime/ops/into.h"

namespace lockstep::kernels {

// [..., m, k] @ [..., k, n] -> [..., m, n]; leading dimensions broadcast. Rank 2 at least.
Array matmul(const Array& a, const Array& b, Into into = {});

}  // namespace lockstep::kernels
