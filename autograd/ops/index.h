#pragma once

#include <cstdint>
#include <optional>

#include "lockstep/autograd/ops/reduce.h"
#include "lockstep/autograd/scalar.h"
#include "lockstep/autograd/tensor.h"

namespace lockstep {

// Indices are i64 (or i32) in [0, size of the dimension); anything else throws Error. Dimensions
// count from the end when negative. Indices and masks have no gradient.

// The places index[0], index[1], … of `dim`; index has rank 1 (or 0: one place).
Tensor index_select(const Tensor& x, int dim, const Tensor& index);
// out[i][j] = x[index[i][j]][j] along dim 0, and so on. index has x's rank and, in the other
// dimensions, at most x's size. The result has index's shape.
Tensor gather(const Tensor& x, int dim, const Tensor& index);
// x with src added: out[index[i][j]][j] += src[i][j] along dim 0, and so on. index has the rank of
// both and nowhere more than src's size, nor, outside `dim`, than x's.
Tensor scatter_add(const Tensor& x, int dim, const Tensor& index, const Tensor& src);

// mask: bool. `value` where it is true; it broadcasts to x (masked_fill's x to it, too).
Tensor masked_fill(const Tensor& x, const Tensor& mask, const Scalar& value);
// The elements where mask is true, in row-major order: rank 1. The two broadcast.
Tensor masked_select(const Tensor& x, const Tensor& mask);

// weight [count, width], ids of any shape -> [ids…, width]. No gradient for row `padding_idx`
// (from the end when negative).
Tensor embedding(const Tensor& ids, const Tensor& weight, std::optional<int64_t> padding_idx = {});
// [ids…, classes] of `dtype`; classes -1: one more than the largest.
Tensor one_hot(const Tensor& ids, int64_t classes = -1, DType dtype = DType::i64);

// The k largest (smallest) along `dim`, in order; NaN counts as the largest. `sorted` false leaves
// the order open.
ValuesIndices topk(const Tensor& x, int64_t k, int dim = -1, bool largest = true,
                   bool sorted = true);
// Equal elements keep their order, `stable` or not.
ValuesIndices sort(const Tensor& x, int dim = -1, bool descending = false, bool stable = false);
Tensor argsort(const Tensor& x, int dim = -1, bool descending = false, bool stable = false);

}  // namespace lockstep
