#pragma once

#include <optional>
#include <vector>

#include "lockstep/autograd/tensor.h"

namespace lockstep {

// Dimensions may be negative: they count from the end.

// Windows on the same values. In `shape` one entry may be -1: whatever is left. `reshape` copies
// where no window has that shape, `view` throws Error there.
Tensor reshape(const Tensor& x, const Shape& shape);
Tensor view(const Tensor& x, const Shape& shape);
// Dimensions start … end become one.
Tensor flatten(const Tensor& x, int start = 0, int end = -1);
Tensor permute(const Tensor& x, std::vector<int> order);
Tensor transpose(const Tensor& x, int a, int b);
Tensor unsqueeze(const Tensor& x, int dim);
// Drops dimensions of size 1: all, or those that are named and have it.
Tensor squeeze(const Tensor& x);
Tensor squeeze(const Tensor& x, int dim);
Tensor squeeze(const Tensor& x, std::vector<int> dims);
// Repeats dimensions of size 1 without copying; leading dimensions may be added. -1 keeps a size.
Tensor expand(const Tensor& x, const Shape& shape);
// Elements [start, start + length) of `dim`; a negative start counts from the end.
Tensor narrow(const Tensor& x, int dim, int64_t start, int64_t length);
// x[start:stop:step] along `dim` as Python slices: bounds count from the end when negative and are
// clamped. step > 0.
Tensor slice(const Tensor& x, int dim, std::optional<int64_t> start = {},
             std::optional<int64_t> stop = {}, int64_t step = 1);
// One place of `dim`, which goes away.
Tensor select(const Tensor& x, int dim, int64_t index);
std::vector<Tensor> unbind(const Tensor& x, int dim = 0);
// Pieces along `dim`; one op with several outputs. `chunk` makes at most `count` equal ones (the
// last may be smaller), `split` pieces of `size` (the last takes the rest) or of `sizes`.
std::vector<Tensor> chunk(const Tensor& x, int64_t count, int dim = 0);
std::vector<Tensor> split(const Tensor& x, int64_t size, int dim = 0);
std::vector<Tensor> split(const Tensor& x, const std::vector<int64_t>& sizes, int dim = 0);

// Row-major in memory; x itself where it is.
Tensor contiguous(const Tensor& x);

// The rest makes new arrays.

Tensor flip(const Tensor& x, std::vector<int> dims);
// Elements move by `shifts` and come back at the other end. Without dims: in row-major order.
Tensor roll(const Tensor& x, std::vector<int64_t> shifts, std::vector<int> dims = {});
// Joins along `dim`; dtypes are promoted. Empty tensors of shape [0] are left out.
Tensor cat(const std::vector<Tensor>& tensors, int dim = 0);
// Joins along a new dimension.
Tensor stack(const std::vector<Tensor>& tensors, int dim = 0);

enum class PadMode { constant, reflect };
// `pads` are [before, after] of the last dimension, then of the one before it, …; negative ones
// crop. Reflection leaves out the edge itself and reaches less than a size far.
Tensor pad(const Tensor& x, const std::vector<int64_t>& pads, PadMode mode = PadMode::constant,
           double value = 0);

// Of the last two dimensions: zero above (below) the diagonal, counted from the main one upwards.
Tensor tril(const Tensor& x, int64_t diagonal = 0);
Tensor triu(const Tensor& x, int64_t diagonal = 0);

// Copies side by side, so many in each dimension; leading dimensions may be added.
Tensor repeat(const Tensor& x, const std::vector<int64_t>& repeats);
// Each element of `dim` n times (or its entry of `repeats`, i64), one after the other. Without dim:
// of x flattened.
Tensor repeat_interleave(const Tensor& x, int64_t n, std::optional<int> dim = {});
Tensor repeat_interleave(const Tensor& x, const Tensor& repeats, std::optional<int> dim = {});

}  // namespace lockstep
